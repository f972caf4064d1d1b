"""The controller's side of adapter publication: nothing goes on until every engine proves it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import ray

from repo_ray.actors.pool import ActorPool
from repo_ray.actors.roster import Member
from repo_ray.models.adapters import adapter_digest
from repo_ray.rollouts.publication import EngineState, PublicationError, PushReport


@dataclass(frozen=True)
class Published:
    """What every engine must be serving. `blob` is the adapter in Ray's object store."""

    version: int
    digest: str
    blob: Any


class Publisher:
    """Pushes adapters to all engines, and to engines that join late.

    One lock orders pushes and newcomers, so that no engine can become ready with an adapter
    that was replaced while it started.
    """

    def __init__(self) -> None:
        self.current: Published | None = None
        #: The version that each engine last proved to serve, by its name.
        self.verified: dict[str, int] = {}
        self._lock = asyncio.Lock()

    def prepare(self, blob: bytes, version: int) -> Published:
        """Makes `blob` the adapter that engines start with, before any engine exists."""
        self.current = Published(version, adapter_digest(blob), ray.put(blob))
        return self.current

    async def push(self, pool: ActorPool, blob: bytes, version: int) -> list[PushReport]:
        """Publishes to every ready engine and checks what each one says it serves.

        Raises `PublicationError` when an engine reports another version or digest, or cannot
        prove its live weights.
        """
        async with self._lock:
            # Hashing 2 GB of a 32B model's adapter takes seconds in which pools must be heard.
            published = await asyncio.to_thread(self.prepare, blob, version)
            reports: dict[str, PushReport] = await pool.broadcast(
                "push", published.blob, published.version, published.digest
            )
            for report in reports.values():
                _check(report.engine, report.version, report.digest, published)
            states: dict[str, EngineState] = await pool.broadcast("state")
            for name, state in states.items():
                _check(name, state.version, state.digest, published)
            self.verified = {name: state.version for name, state in states.items()}
            return list(reports.values())

    async def bring_up_to_date(self, member: Member, timeout_s: float) -> None:
        """For a pool's `on_ready`: pushes the current adapter if the engine started with another."""
        async with self._lock:
            if self.current is None:
                return
            state: EngineState = await asyncio.wait_for(member.handle.state.remote(), timeout_s)
            if (state.version, state.digest) != (self.current.version, self.current.digest):
                ref = member.handle.push.remote(
                    self.current.blob, self.current.version, self.current.digest
                )
                report: PushReport = await asyncio.wait_for(ref, timeout_s)
                _check(report.engine, report.version, report.digest, self.current)
            self.verified[member.name] = self.current.version


def check_versions(versions: set[int], learner_version: int, staleness: int) -> None:
    """Every sampled token must come from a policy at most `staleness` updates behind.

    Batch k is sampled once the learner has made k - `staleness` updates and used for the next after
    k of them. So this holds for a reply's first token too, however many in-flight updates it meets.

    Raises `PublicationError`: an engine that was left out of a push shows up here even if
    nobody asked it.
    """
    allowed = range(learner_version - staleness, learner_version + 1)
    wrong = sorted(v for v in versions if v not in allowed)
    if wrong:
        raise PublicationError(
            f"samples come from adapter versions {wrong}, the learner is at {learner_version} "
            f"and staleness is {staleness}: an engine missed a push"
        )


def _check(engine: str, version: int, digest: str, published: Published) -> None:
    if (version, digest) != (published.version, published.digest):
        raise PublicationError(
            f"{engine} serves adapter version {version} ({digest[:12]}), published was "
            f"{published.version} ({published.digest[:12]})"
        )
