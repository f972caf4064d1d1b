"""The real controller, collector, pools and publisher over simulated engines, scorers and learner."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from repo_ray.actors.control import Mailbox, namespace
from repo_ray.actors.line import Line, line_to
from repo_ray.actors.pool import ActorPool
from repo_ray.benchmark.simulated import TIMEOUT_S, Delays, Host, Seat
from repo_ray.config.load import validate
from repo_ray.config.pool import PoolConfig
from repo_ray.config.settings import Config
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.models.adapters import build_blob
from repo_ray.records import Experience, Message, Prompt, Source
from repo_ray.training.collect import SOURCES
from repo_ray.training.loop import Controller, Outcome
from repo_ray.training.publication import Publisher
from repo_ray.training.schedule import Schedule

PROMPT_TOKENS, PROMPTS = 256, 4096


@dataclass(frozen=True)
class Shape:
    """How much there is of what. `judges` is the number of scorers of each source, each of which
    takes `scorer_slots` calls at once."""

    engines: int = 512
    slots: int = 20
    judges: int = 32
    scorer_slots: int = 64
    tokens: int = 128
    batch: int = 5120
    staleness: int = 19
    delays: Delays = field(default_factory=Delays)

    @property
    def in_flight(self) -> int:
        """Samples that the engines hold at most."""
        return self.engines * self.slots


class SimulatedLearner:
    """Answers as `actors.learner.LearnerGroup`; a batch travels to a process, as it does to a
    rank."""

    def __init__(self, host: ActorHandle) -> None:
        self._host = host
        self._updates = 0

    async def update(self, batch: list[Experience]) -> UpdateResult:
        result: UpdateResult = await self._host.update.remote(ray.put(batch), self._updates)
        self._updates += 1
        return result

    async def adapter_blob(self, name: str) -> bytes:
        a, b = torch.full((1, 4), float(self._updates)), torch.zeros(4, 1)
        return build_blob({"layer.lora_A.weight": a, "layer.lora_B.weight": b}, 1, 1)

    async def save(self, folder: Path) -> None:
        (folder / "policy.safetensors").write_bytes(await self.adapter_blob("policy"))


class Simulation:
    """A system (`training.system.System`) of simulated members in two processes."""

    def __init__(self, shape: Shape, config: Config) -> None:
        self._shape = shape
        self._config = config
        self.engines, self.others = (
            Host.options(num_cpus=0, max_concurrency=1000).remote(shape.delays, shape.tokens)  # type: ignore[attr-defined]
            for _ in range(2)
        )
        self.publisher = Publisher()
        self.learner = SimulatedLearner(self.others)
        self.rollout = self._pool(
            "rollout", config.rollout.pool, self.engines, line_to(self.engines), None
        )
        line = line_to(self.others)
        settings: Mapping[Source, PoolConfig] = {
            "reward_model": config.reward_model.pool,
            "judge": config.judge.pool,
            "rules": config.rules.pool,
        }
        self.scorers = {s: self._pool(s, settings[s], self.others, line, s) for s in SOURCES}
        self.pools = {"rollout": self.rollout, **{str(s): p for s, p in self.scorers.items()}}

    @property
    def version(self) -> int:
        """Of the adapter that was published last."""
        return self.publisher.current.version if self.publisher.current else 0

    async def start(self) -> None:
        self.publisher.prepare(await self.learner.adapter_blob("policy"), 0)
        await asyncio.gather(*(pool.start() for pool in self.pools.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(pool.stop() for pool in self.pools.values()))
        for host in (self.engines, self.others):
            ray.kill(host)

    def _pool(
        self,
        kind: str,
        settings: PoolConfig,
        host: ActorHandle,
        line: Line,
        source: Source | None,
    ) -> ActorPool:
        def spawn(name: str, options: dict[str, Any]) -> Seat:
            host.add.remote(name, source)
            return Seat(line, name)

        return ActorPool(kind, namespace(self._config.run.name), settings, spawn)


@asynccontextmanager
async def running(
    shape: Shape,
    steps: int | None = None,
    after_step: Callable[[int], Awaitable[Mapping[str, Any]]] | None = None,
) -> AsyncIterator[tuple[Simulation, asyncio.Task[Outcome], Path]]:
    """A training that runs, and its folder, on an embedded cluster of its own. Ends it.

    `after_step` is the controller's.
    """
    with tempfile.TemporaryDirectory() as folder, _cluster():
        root = Path(folder)
        config = configuration(shape, root, steps)
        prompts = [
            Prompt(f"p{i}", (Message("user", "word " * PROMPT_TOKENS),)) for i in range(PROMPTS)
        ]
        schedule = Schedule.of(prompts, config.run, 1)
        system = Simulation(shape, config)
        await system.start()
        mailbox = Mailbox(config.run.name, config.run.silence_s)
        ids = [1] * PROMPT_TOKENS
        controller = Controller(
            config,
            root,
            system,  # type: ignore[arg-type]
            schedule,
            lambda prompt: ids,
            mailbox,
            lambda done, total, text: None,
            None,
            after_step,
        )
        training = asyncio.ensure_future(controller.train())
        try:
            yield system, training, root
        finally:
            training.cancel()
            await asyncio.gather(training, return_exceptions=True)
            await system.stop()
            mailbox.close()


@contextmanager
def _cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def configuration(shape: Shape, folder: Path, steps: int | None) -> Config:
    """Pools of that shape; everything else is as by default."""

    def pool(replicas: int, slots: int) -> dict[str, Any]:
        queue = 2 * shape.in_flight
        return {
            "replicas": replicas,
            "cpus": 0,
            "max_in_flight": slots,
            "max_queue": queue,
            "timeout_s": TIMEOUT_S,
        }

    scorers = {"pool": pool(shape.judges, shape.scorer_slots)}
    tree = {
        "run": {
            "name": "simulation",
            "dir": str(folder),
            "epochs": 1_000_000,
            "steps": steps,
            "batch_size": shape.batch,
            "staleness": shape.staleness,
            "checkpoint_every": 1_000_000,
        },
        "rollout": {"pool": pool(shape.engines, shape.slots)},
        "reward_model": scorers,
        "judge": scorers,
        "rules": scorers,
        "monitor": {"every": 0},
    }
    return validate(tree, "simulation")
