"""The central learner: one Ray actor per rank, driven together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from repo_ray.actors.control import namespace
from repo_ray.actors.environment import thread_environment
from repo_ray.actors.files import Files, read_files, unpacked, write_files
from repo_ray.actors.logs import log_as_actor
from repo_ray.actors.placement import PlacementError, actor_options, reserve_gang
from repo_ray.config import Config
from repo_ray.learner.checkpoint import rank_of
from repo_ray.learner.engine import Rank
from repo_ray.learner.ppo_learner import PPOLearner, UpdateResult
from repo_ray.logs import at_step
from repo_ray.models.actor_critic import TokenSequence
from repo_ray.models.loading import model_on_node
from repo_ray.planning.nodes import Reservation
from repo_ray.records import Experience
from repo_ray.rollouts.publication import Canary, visible_canary

log = logging.getLogger(__name__)


class LearnerError(RuntimeError):
    """A learner rank died, hung or failed; the run goes on from its last checkpoint."""


#: A rank is asked for a sign of life this often in the time that it has to give one.
SIGNS = 5


@ray.remote(concurrency_groups={"signs": 1})  # type: ignore[call-overload]
class LearnerActor:
    """One rank. Blocking calls are fine: each rank does one thing at a time, in one thread."""

    @ray.method(concurrency_group="signs")
    def ping(self) -> None:
        """Returns whatever else the rank does meanwhile, unless its process is frozen."""

    def address(self) -> tuple[str, int]:
        """An address of this node and a free port, for rank 0 to listen on."""
        import socket

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def build(self, config: Config, model_folder: Path, rank: Rank, policy: bytes | None) -> None:
        import torch

        log_as_actor(config.run.name)
        # Until the first update, which has its own threads: much else starts on the same cores, and
        # threads that spin for each other wait for turns (two cores: 12 s instead of 1 s for the
        # adapters alone).
        torch.set_num_threads(1)
        folder = model_on_node(config.model.path, model_folder)
        self._first = rank.rank == 0
        self._learner = PPOLearner(config, folder, rank)
        if policy is not None:
            self._learner.set_policy(policy)

    def update(self, batch: list[Experience]) -> UpdateResult:
        result = self._learner.update(batch)
        at_step(self._learner.updates)
        log.info("update of %d samples: %s", len(batch), result.skipped or "applied")
        return result

    def adapter_blob(self, name: str) -> bytes:
        """The adapter, from rank 0 alone. All ranks gather it; sent by each, 2 GiB of a 32B model's
        would go to the driver as often as there are ranks."""
        blob = self._learner.adapter_blob(name)
        return blob if self._first else b""

    def canary(self, probes: Sequence[TokenSequence], seed: int, tolerance: float) -> Canary:
        """See `publication.visible_canary`. The policy adapter returns; rank 0 sends the blob."""
        policy = self._learner.adapter_blob("policy")

        def logprobs(blob: bytes) -> list[list[float]]:
            self._learner.set_policy(blob)
            return self._learner.logprobs_of(probes)

        try:
            base = self._learner.logprobs_of(probes, "base")
            found = visible_canary(policy, seed, tolerance, base, logprobs)
        finally:
            self._learner.set_policy(policy)
        return found if self._first else replace(found, blob=b"")

    def save(self) -> Files:
        with unpacked({}) as folder:
            self._learner.save(folder)
            return read_files(folder)

    def load(self, common: Files, own: Files) -> None:
        with unpacked({**common, **own}) as folder:
            self._learner.load(folder)
        at_step(self._learner.updates)
        log.info("continues from the checkpoint of %d updates", self._learner.updates)


class LearnerGroup:
    """All ranks as one. Every method raises `LearnerError` naming the rank that failed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ranks: list[Any] = []
        self._started: set[int] = set()
        self._places: PlacementGroup | None = None

    async def reserve(self) -> None:
        """Reserves places for all ranks at once, packed, before other actors take some of them.

        Ranks that reserve nothing need no places.
        """
        gang = Reservation.of("learner", self._config.learner.world_size, self._config.learner)
        if not gang.amounts:
            return
        limit = self._config.run.placement_timeout_s
        try:
            self._places = await reserve_gang(gang, limit, log.warning)
        except PlacementError as error:
            raise LearnerError(str(error)) from None

    async def build(self, model_folder: Path, policy: bytes | None) -> None:
        """Spawns every rank and loads the model on it; `policy` is the warm start's adapter."""
        self._ranks = self._spawn()
        address, port = await self._one(0, "address")
        world = len(self._ranks)
        blob = ray.put(policy)
        await asyncio.gather(
            *(
                self._one(
                    rank,
                    "build",
                    self._config,
                    model_folder,
                    Rank(rank, world, address, port, self._config.learner.timeout_s),
                    blob,
                )
                for rank in range(world)
            )
        )

    def _spawn(self) -> list[Any]:
        learner = self._config.learner
        alone = self._config.run.staleness == 0
        options = {
            **actor_options(learner),
            "namespace": namespace(self._config.run.name),
            "max_restarts": 0,
            "runtime_env": {"env_vars": thread_environment(learner.threads, alone=alone)},
        }
        ranks = []
        for rank in range(learner.world_size):
            if self._places is not None:  # a bundle has its labels already
                place = PlacementGroupSchedulingStrategy(self._places, rank)
                options |= {"label_selector": None, "scheduling_strategy": place}
            ranks.append(LearnerActor.options(name=f"learner-{rank}", **options).remote())  # type: ignore[attr-defined]
        return ranks

    async def update(self, batch: list[Experience]) -> UpdateResult:
        """One update on all ranks; rank 0 answers for all, since metrics are reduced over ranks.

        Its warnings go to the log of the caller: an actor's own log is on its node.
        """
        result: UpdateResult = await self._all("update", ray.put(batch))
        for warning in result.warnings:
            log.warning("%s", warning)
        return result

    async def adapter_blob(self, name: str) -> bytes:
        return await self._all("adapter_blob", name)

    async def canary(self, probes: Sequence[TokenSequence], seed: int, tolerance: float) -> Canary:
        """An adapter that moves the log-probs of `probes` visibly, and by how much."""
        found: Canary = await self._all("canary", probes, seed, tolerance)
        return found

    async def save(self, folder: Path) -> None:
        """Brings the files of every rank here and writes them to `folder`."""

        async def one(rank: int) -> None:
            files = await self._one(rank, "save")
            await asyncio.to_thread(write_files, folder, files)

        await asyncio.gather(*(one(rank) for rank in range(len(self._ranks))))

    async def load(self, folder: Path) -> None:
        """Every rank continues from its files in `folder`."""
        files = await asyncio.to_thread(read_files, folder)
        common = ray.put({n: f for n, f in files.items() if rank_of(n) is None})
        try:
            await asyncio.gather(
                *(
                    self._one(
                        rank, "load", common, {n: f for n, f in files.items() if rank_of(n) == rank}
                    )
                    for rank in range(len(self._ranks))
                )
            )
        except LearnerError as error:
            raise LearnerError(f"{folder}: {error}") from error

    def stop(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        if self._places is not None:
            remove_placement_group(self._places)

    async def _all(self, method: str, *args: Any) -> Any:
        results = await asyncio.gather(
            *(self._one(rank, method, *args) for rank in range(len(self._ranks)))
        )
        return results[0]

    async def _one(self, rank: int, method: str, *args: Any) -> Any:
        limit, silence = self._config.learner.timeout_s, self._config.run.silence_s
        what = f"learner-{rank}.{method}"
        work = asyncio.ensure_future(getattr(self._ranks[rank], method).remote(*args))
        silent = asyncio.ensure_future(self._silent(rank, silence))
        try:
            await asyncio.wait({work, silent}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and silent.done():
                raise LearnerError(
                    f"{what}: no sign of life for {silence:g} s: the process is frozen, or its "
                    "node does not answer"
                )
            if not work.done():
                raise LearnerError(f"{what} took longer than {limit:g} s")
            return work.result()
        except RayTaskError as error:
            raise LearnerError(f"learner-{rank}.{method}: {error.cause}") from error
        except RayActorError as error:
            reason = str(error).partition("\n")[0]  # what follows is Ray's, and in the log
            raise LearnerError(f"learner-{rank} died during {method}: {reason}") from error
        finally:
            work.cancel()
            silent.cancel()

    async def _silent(self, rank: int, seconds: float) -> None:
        """Returns when the rank has not answered for so long. What ends it is not for here.

        A process that is still starting is not silent: the limit of its call holds.
        """
        if rank not in self._started:
            with suppress(RayError):  # its call says so too
                await self._ranks[rank].ping.remote()
            self._started.add(rank)
        heard = time.monotonic()
        while time.monotonic() - heard < seconds:
            ping = self._ranks[rank].ping.remote()
            try:
                await asyncio.wait_for(ping, seconds / SIGNS)
            except TimeoutError:
                continue
            except RayError:
                pass
            heard = time.monotonic()
            await asyncio.sleep(seconds / SIGNS)
