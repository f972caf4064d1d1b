"""A run with a fake engine and a fake learner: everything else is real, and steps take milliseconds.

python fake_engine_run.py FOLDER STEPS [SECONDS]

With SECONDS, an endpoint judge that answers after that time joins, and the run is asynchronous.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from slow_judge import start_slow_judge

from repo_ray.actors.control import namespace
from repo_ray.actors.pool import ActorPool
from repo_ray.config.load import validate
from repo_ray.data.reader import read_prompts
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.pipeline.cluster import connect
from repo_ray.pipeline.run_folder import RunFolder
from repo_ray.records import Experience, Prompt, Rollout
from repo_ray.training.loop import Controller
from repo_ray.training.schedule import Schedule
from repo_ray.training.system import Folders, System

REFUND = Path(__file__).parents[2] / "jobs" / "configs" / "refund"
REPLY_TOKENS = 64
JUDGE_SLOTS, JUDGE_QUEUE = 3, 12
WORDS = [
    "Wir",
    "erstatten",
    "Ihnen",
    "49,90",
    "Euro",
    "bis",
    "zum",
    "17.03.2025,",
    "bitte",
    "senden",
    "Sie",
    "es",
    "zurück",
]


@ray.remote
class FakeEngine:
    """Replies of random words; sampling takes no time."""

    async def ready(self) -> None: ...

    async def ping(self) -> None: ...

    async def sample(
        self, sample_id: str, prompt_id: str, attempt: int, ids: list[int], seed: int
    ) -> Rollout:
        rng = random.Random(seed)
        n = REPLY_TOKENS
        text = " ".join(rng.choices(WORDS, k=n // 2))
        tokens = tuple(rng.choices(range(1000), k=n))
        version = int(sample_id.split("-")[0])
        return Rollout(
            sample_id,
            prompt_id,
            attempt,
            tuple(ids),
            tokens,
            (True,) * n,
            (-1.0,) * n,
            (version,) * n,
            "stop",
            text,
        )


class FakeLearner:
    """Learner and publisher: an adapter of a megabyte goes through Ray at every step."""

    def __init__(self) -> None:
        self.current = SimpleNamespace(version=0)
        self.verified = {"rollout-0": 0}

    async def update(self, batch: list[Experience]) -> UpdateResult:
        await asyncio.wrap_future(ray.put(batch).future())  # as it travels to the ranks
        return UpdateResult({"entropy": 1.0}, [])

    async def adapter_blob(self, name: str) -> bytes:
        return random.randbytes(1_000_000)

    async def push(self, pool: Any, blob: bytes, version: int) -> list[Any]:
        await asyncio.wrap_future(ray.put(blob).future())
        self.current, self.verified = SimpleNamespace(version=version), {"rollout-0": version}
        return []

    async def save(self, folder: Path) -> None:
        (folder / "policy.safetensors").write_bytes(random.randbytes(1_000_000))


async def main(root: Path, steps: int, latency_s: float) -> None:
    pool = {"cpus": 0.1, "threads": 1, "max_in_flight": 16}
    tree: dict[str, Any] = {
        "run": {
            "name": root.name,
            "dir": str(root.parent),
            "steps": steps,
            "epochs": 10_000,
            "batch_size": 16,
            "checkpoint_every": 50,
            "staleness": 2 if latency_s else 0,
        },
        "data": {"prompts": str(REFUND / "prompts.jsonl")},
        "rules": {"path": str(REFUND / "rules.yaml"), "pool": pool},
        "rollout": {"pool": pool},
        "reward_model": {"enabled": False},
        "judge": {"enabled": False},
    }
    if latency_s:
        server = await start_slow_judge(latency_s)
        tree["judge"] = {
            "kind": "endpoint",
            "base_url": str(server.make_url("/v1")),
            "model": "m",
            "rubric": str(REFUND / "rubric.yaml"),
            "pool": {**pool, "max_in_flight": JUDGE_SLOTS, "max_queue": JUDGE_QUEUE},
        }
    config = validate(tree, "soak")
    root.mkdir(parents=True)
    connect(config, RunFolder(root), None)
    system = System(config, Folders(root, None, None), root)
    system.rollout = ActorPool(
        "rollout",
        namespace(config.run.name),
        config.rollout.pool,
        lambda name, options: FakeEngine.options(**options).remote(),
    )
    system.learner = system.publisher = FakeLearner()  # type: ignore[assignment]
    await system.start_pools(print)

    async def never() -> None:
        await asyncio.Event().wait()

    prompts = read_prompts(REFUND / "prompts.jsonl")

    def encode(prompt: Prompt) -> list[int]:
        return [1] * REPLY_TOKENS

    controller = Controller(
        config,
        root,
        system,
        Schedule.of(prompts, config.run, 1),
        encode,
        SimpleNamespace(next_request=never),  # type: ignore[arg-type]
        lambda *_: None,
        None,
    )
    await controller.train()
    for each in system.pools.values():
        await each.stop()


if __name__ == "__main__":
    folder, count, *seconds = sys.argv[1:]
    asyncio.run(main(Path(folder), int(count), float(*seconds)))
