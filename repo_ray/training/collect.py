"""From prompts to scored experiences: samples, scores as soon as each sample is finished, retries."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ray.exceptions import RayError

from repo_ray.actors.pool import ActorPool, CallTimeoutError
from repo_ray.config import Config
from repo_ray.records import Experience, Prompt, Reward, Rollout, Score, Source
from repo_ray.rewards.enhancement import combine
from repo_ray.training.accounting import Ledger, cause

#: In this order scores are stored and shown.
SOURCES: tuple[Source, ...] = ("reward_model", "judge", "rules")


@dataclass(frozen=True)
class Collected:
    """One step's batch in prompt order, and what happened on the way to it."""

    step: int
    experiences: list[Experience]
    ledger: Ledger
    seconds: float
    tokens: int


class Collector:
    """Turns prompts into experiences through the rollout pool and the scoring pools.

    `encode` gives a prompt's token ids. `on_sample` is told of each finished sample.
    """

    def __init__(
        self,
        config: Config,
        rollout: ActorPool,
        scorers: Mapping[Source, ActorPool],
        encode: Callable[[Prompt], list[int]],
        on_sample: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._rollout = rollout
        self._scorers = scorers
        self._encode = encode
        self._on_sample = on_sample

    async def batch(self, step: int, prompts: Sequence[Prompt]) -> Collected:
        """Samples and scores every prompt; returns when each is consumed or dropped."""
        ledger = Ledger(issued=len(prompts))
        start = time.monotonic()

        async def one(position: int, prompt: Prompt) -> Experience | None:
            experience = await self._experience(step, position, prompt, ledger)
            self._on_sample()
            return experience

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(i, prompt)) for i, prompt in enumerate(prompts)]
        experiences = [e for e in (task.result() for task in tasks) if e is not None]
        ledger.consumed = len(experiences)
        return Collected(
            step,
            experiences,
            ledger,
            seconds=time.monotonic() - start,
            tokens=sum(len(e.rollout.token_ids) for e in experiences),
        )

    async def _experience(
        self, step: int, position: int, prompt: Prompt, ledger: Ledger
    ) -> Experience | None:
        token_ids = self._encode(prompt)
        last_cause = ""
        for attempt in range(self._config.run.max_attempts):
            sample_id = f"{step}-{position}-{attempt}"
            try:
                rollout: Rollout = await self._rollout.call(
                    "sample",
                    sample_id,
                    prompt.prompt_id,
                    attempt,
                    token_ids,
                    sampling_seed(self._config.run.seed, sample_id),
                )
            except CallTimeoutError:
                last_cause = "rollout: timeout"
                continue
            ledger.samples += 1
            scores = await self.score(prompt, rollout.text)
            for score in scores:
                ledger.count_score(score)
            failed = [s for s in scores if not s.valid]
            if not failed:
                return Experience(prompt, rollout, scores, self.reward(scores))
            last_cause = f"{failed[0].source}: {cause(failed[0].error)}"
        ledger.dropped[last_cause] += 1
        return None

    async def score(self, prompt: Prompt, reply: str) -> tuple[Score, ...]:
        """Every source's score of one reply, in parallel. A time-out is an invalid score."""

        async def one(source: Source) -> Score:
            start = time.monotonic()
            try:
                score: Score = await self._scorers[source].call("score", prompt, reply)
                return score
            except CallTimeoutError as error:
                return Score.invalid(source, f"timeout: {error}", time.monotonic() - start)
            except RayError as error:  # what the scorer itself raised; its last line says what
                reason = str(error).strip().splitlines()[-1]
                return Score.invalid(source, f"actor: {reason}", time.monotonic() - start)

        return tuple(await asyncio.gather(*(one(s) for s in SOURCES if s in self._scorers)))

    def reward(self, scores: Sequence[Score]) -> Reward:
        """The combined reward of valid scores; a source that is off contributes nothing."""
        values = {s.source: s.value for s in scores if s.value is not None}
        return combine(
            self._config.enhancement,
            r_model=values.get("reward_model", 1.0),  # paper's formula without a reward model
            e_judge=values.get("judge", 0.0),
            e_func=values.get("rules", 0.0),
        )


def sampling_seed(run_seed: int, sample_id: str) -> int:
    """A 63-bit seed for one sample, the same on every machine and after every restart."""
    digest = hashlib.sha256(f"{run_seed}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
