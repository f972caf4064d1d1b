"""Stand-ins for engines, scorers and learner that take time and nothing else, many to a process.

What a member does is a delay drawn from a lognormal distribution, fixed by the run's seed and the
sample's id: whatever the order of events, the same sample takes the same time. Everything around
the delay is real: Ray calls, records of the usual size, an engine's gate, versions and digests.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ray

from repo_ray.actors.line import Line, batched
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.models.adapters import adapter_digest
from repo_ray.records import Experience, Prompt, Rollout, Score, Source
from repo_ray.rollouts.gate import Gate
from repo_ray.rollouts.publication import EngineState, PushReport

#: Longer than any delay.
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Delays:
    """Seconds that work takes: lognormal, with these means.

    `sigma` is the standard deviation of the logarithm, `update_sigma` the learner's: at 0.5 one
    sample in a hundred takes 2.8 times the mean, one in ten thousand 5.7 times. `push_s` is what
    an engine needs to load an adapter, always the same. An engine that `drains` first finishes
    what it has, as `RolloutEngine` does; one that does not goes on sampling meanwhile.
    """

    sample_s: float = 30.0
    score_s: float = 3.0
    update_s: float = 10.0
    push_s: float = 1.0
    sigma: float = 0.5
    update_sigma: float = 0.5
    drains: bool = True
    seed: int = 0

    def sample(self, sample_id: str) -> float:
        return self._draw(f"sample {sample_id}", self.sample_s, self.sigma)

    def score(self, source: Source, reply: str) -> float:
        """`reply` is the simulated reply, which no other sample has."""
        return self._draw(f"{source} {reply}", self.score_s, self.sigma)

    def update(self, step: int) -> float:
        return self._draw(f"update {step}", self.update_s, self.update_sigma)

    def _draw(self, name: str, mean_s: float, sigma: float) -> float:
        if not mean_s:
            return 0.0
        rng = random.Random(f"{self.seed}/{name}")
        return rng.lognormvariate(math.log(mean_s) - sigma**2 / 2, sigma)


def reply(sample_id: str, tokens: int) -> str:
    """What a simulated engine answers: words, and which sample they are."""
    return f"reply {sample_id} " + "word " * tokens


#: When work began (`time.monotonic`, one clock for all processes of a machine), and its seconds.
Span = tuple[float, float]


def busy_seconds(spans: Sequence[Span], begin: float, end: float) -> float:
    """Seconds of work between two moments. What a late timer adds to a delay is no work."""
    return sum(max(0.0, min(end, at + took) - max(begin, at)) for at, took in spans)


class SimulatedEngine:
    """Answers as `actors.rollout.RolloutActor` does. Any number of samples run side by side."""

    def __init__(self, name: str, delays: Delays, tokens: int) -> None:
        self._name, self._delays, self._tokens = name, delays, tokens
        self._gate = Gate()
        self._version, self._digest = 0, ""
        self.spans: list[Span] = []

    async def sample(
        self, sample_id: str, prompt_id: str, attempt: int, ids: Sequence[int], seed: int
    ) -> Rollout:
        if self._delays.drains:
            async with self._gate.shared():
                version = self._version
                took = await self._work(sample_id)
        else:
            version = self._version
            took = await self._work(sample_id)
        n = self._tokens
        rng = random.Random(seed)
        return Rollout(
            sample_id,
            prompt_id,
            attempt,
            tuple(ids),
            tuple(rng.choices(range(1000), k=n)),
            (True,) * n,
            tuple(rng.random() - 1 for _ in range(n)),
            (version,) * n,
            "stop",
            reply(sample_id, n),
            self._name,
            took,
        )

    async def push(self, blob: bytes, version: int, digest: str) -> PushReport:
        began = time.monotonic()
        received = adapter_digest(blob)
        async with self._gate.exclusive():
            drained = time.monotonic()
            await asyncio.sleep(self._delays.push_s)
            self._version, self._digest = version, received
        end = time.monotonic()
        drain_s, load_s, total_s = drained - began, end - drained, end - began
        return PushReport(
            self._name, version, received, 0, 0.0, drain_s, load_s, verify_s=0.0, total_s=total_s
        )

    async def state(self) -> EngineState:
        return EngineState(self._name, self._version, self._digest, verified=True)

    async def _work(self, sample_id: str) -> float:
        took = self._delays.sample(sample_id)
        self.spans.append((time.monotonic(), took))
        await asyncio.sleep(took)
        return took


class SimulatedScorer:
    """Answers as the actors of `actors.scorers` do."""

    def __init__(self, source: Source, delays: Delays) -> None:
        self._source, self._delays = source, delays
        self.spans: list[Span] = []

    async def score(self, prompt: Prompt, reply: str) -> Score:
        took = self._delays.score(self._source, reply)
        self.spans.append((time.monotonic(), took))
        await asyncio.sleep(took)
        value = random.Random(reply).gauss(0, 1)
        return Score(self._source, value, latency_s=took)


@ray.remote
@batched
class Host:
    """One process for many simulated members; `on` answers what is asked of one of them."""

    def __init__(self, delays: Delays, tokens: int) -> None:
        self._delays, self._tokens = delays, tokens
        self._members: dict[str, Any] = {}

    async def add(self, name: str, source: Source | None) -> None:
        """A scorer of that source, or an engine."""
        if source is None:
            self._members[name] = SimulatedEngine(name, self._delays, self._tokens)
        else:
            self._members[name] = SimulatedScorer(source, self._delays)

    async def on(self, name: str, method: str, *args: Any) -> Any:
        if method in ("ready", "ping"):
            return None
        return await getattr(self._members[name], method)(*args)

    async def update(self, batch: Sequence[Experience], step: int) -> UpdateResult:
        """The learner, which has no use for a member's name."""
        await asyncio.sleep(self._delays.update(step))
        return UpdateResult({"entropy": 1.0}, [])

    async def busy_s(self, begin: float, end: float) -> float:
        """Seconds that members of this process worked between two moments, slots added up."""
        return sum(busy_seconds(m.spans, begin, end) for m in self._members.values())


class Seat:
    """A simulated member for its pool: in place of an actor's handle, and the line to it."""

    def __init__(self, host: Line, name: str) -> None:
        self._host, self._name = host, name

    async def call(self, method: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        return await self._host.call("on", (self._name, method, *args), timeout_s)

    def kill(self) -> None:
        """Others live in the same process."""

    def __getattr__(self, method: str) -> Any:
        """`seat.method.remote(...)`, as of an actor's handle."""
        return SimpleNamespace(remote=lambda *args: self.call(method, args, TIMEOUT_S))
