"""From prompts to scored experiences: samples, scores as soon as each sample is finished, retries."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ray.exceptions import RayError, RayTaskError

from repo_ray.actors.failures import short
from repo_ray.actors.pool import ActorPool, CallTimeoutError
from repo_ray.config import Config
from repo_ray.negotiation.hotelier.moves import HotelierError
from repo_ray.records import Dropped, Experience, Prompt, Reward, Rollout, Score, Source
from repo_ray.rewards.enhancement import combine
from repo_ray.rewards.judge.budget import FINAL, BudgetError
from repo_ray.rollouts.publication import PublicationError
from repo_ray.training.accounting import Ledger, cause
from repo_ray.training.dialogues import Episodes, dialogue_experience, play

log = logging.getLogger(__name__)

#: In this order scores are stored and shown.
SOURCES: tuple[Source, ...] = ("reward_model", "judge", "rules")
#: A score that fails with one of these causes may succeed when the same reply is scored again.
PASSING = ("timeout", "actor")


@dataclass(frozen=True)
class Collected:
    """One step's batch in prompt order, the prompts missing in it, and what happened on the way.

    `tokens` counts those that were sampled.
    """

    step: int
    experiences: list[Experience]
    dropped: list[Dropped]
    ledger: Ledger
    seconds: float
    tokens: int


class Collector:
    """Turns prompts into experiences through the rollout pool and the scoring pools.

    With `config.dialogue`, prompts are openings of episodes (`dialogues.Episodes`), and each is
    played to its end: one experience per dialogue. `encode` gives a prompt's token ids.
    `on_sample` is told of each finished sample, a dialogue being one.
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
        #: Accounting of batches, by step, until whoever wanted the batch takes it out.
        self.open: dict[int, Ledger] = {}
        dialogue = config.dialogue
        self._episodes = Episodes(dialogue, config.run.seed) if dialogue else None

    async def batch(self, step: int, prompts: Sequence[Prompt]) -> Collected:
        """Samples and scores every prompt; returns when each is consumed or dropped.

        Raises `BudgetError`, alone or in a group, where no further judge score can be had.
        """
        ledger = self.open[step] = Ledger(issued=len(prompts))
        start = time.monotonic()

        async def one(position: int, prompt: Prompt) -> Experience | Dropped:
            experience = await self._experience(step, position, prompt, ledger)
            self._on_sample()
            return experience

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(i, prompt)) for i, prompt in enumerate(prompts)]
        ended = [task.result() for task in tasks]
        experiences = [e for e in ended if isinstance(e, Experience)]
        ledger.consumed = len(experiences)
        return Collected(
            step,
            experiences,
            [e for e in ended if isinstance(e, Dropped)],
            ledger,
            seconds=time.monotonic() - start,
            tokens=sum(sum(e.rollout.loss_mask) for e in experiences),
        )

    async def _experience(
        self, step: int, position: int, prompt: Prompt, ledger: Ledger
    ) -> Experience | Dropped:
        last_cause = ""
        attempts = self._config.run.max_attempts
        for attempt in range(attempts):
            sample_id = f"{step}-{position}-{attempt}"
            try:
                if self._episodes is None:
                    tried = await self._reply(sample_id, prompt, attempt, ledger)
                else:
                    tried = await self._dialogue(self._episodes, sample_id, prompt, attempt, ledger)
            except CallTimeoutError:
                last_cause = "rollout: timeout"
                continue
            except PublicationError:  # an engine that holds another adapter, not this prompt
                raise
            except RayTaskError as error:  # what the engine raised on this prompt
                log.warning("sample %s (prompt %s): %s", sample_id, prompt.prompt_id, short(error))
                last_cause = f"rollout: {type(error.cause).__name__}"
                continue
            except HotelierError as error:
                last_cause = f"hotelier: {error.cause}"
                continue
            if isinstance(tried, Experience):
                return tried
            last_cause = tried
        ledger.dropped[last_cause] += 1
        return Dropped(prompt.prompt_id, position, attempts, last_cause)

    async def _reply(
        self, sample_id: str, prompt: Prompt, attempt: int, ledger: Ledger
    ) -> Experience | str:
        """One attempt at a single reply, or why its scores are no good."""
        rollout = await self._sample(
            sample_id, prompt.prompt_id, attempt, self._encode(prompt), ledger
        )
        scores = await self.score(prompt, rollout.text, ledger.count_score)
        if reason := _count(scores, ledger):
            ledger.discarded_tokens.append(sum(rollout.loss_mask))
            return reason
        return Experience(prompt, rollout, scores, self.reward(scores))

    async def _dialogue(
        self, episodes: Episodes, sample_id: str, opening: Prompt, attempt: int, ledger: Ledger
    ) -> Experience | str:
        """One attempt at a whole dialogue, or why the scores of one of its turns are no good.

        Each turn is scored while the dialogue goes on.
        """

        async def sample(turn: int, token_ids: list[int]) -> Rollout:
            return await self._sample(
                f"{sample_id}-{turn}", opening.prompt_id, attempt, token_ids, ledger
            )

        scoring: list[asyncio.Future[tuple[Score, ...]]] = []
        try:
            played = await play(
                episodes.reopen(opening),
                sample,
                self._encode,
                episodes.dialogue.max_turns,
                self._config.rollout.max_model_len - self._config.sampling.max_new_tokens,
                lambda prompt, reply: scoring.append(
                    asyncio.ensure_future(self.score(prompt, reply, ledger.count_score))
                ),
            )
            scores = await asyncio.gather(*scoring)
        finally:
            for task in scoring:
                task.cancel()
            await asyncio.gather(*scoring, return_exceptions=True)
        if invalid := [reason for turn in scores if (reason := _count(turn, ledger))]:
            ledger.discarded_tokens.append(fmean(sum(r.loss_mask) for r in played.rollouts))
            return invalid[0]
        rewards = [self.reward(turn) for turn in scores]
        return dialogue_experience(sample_id, played, scores, rewards, episodes.dialogue.reward)

    async def _sample(
        self, sample_id: str, prompt_id: str, attempt: int, token_ids: list[int], ledger: Ledger
    ) -> Rollout:
        rollout: Rollout = await self._rollout.call(
            "sample",
            sample_id,
            prompt_id,
            attempt,
            token_ids,
            sampling_seed(self._config.run.seed, sample_id),
        )
        ledger.samples += 1
        return rollout

    async def score(
        self,
        prompt: Prompt,
        reply: str,
        on_second_try: Callable[[Score], None] = lambda first: None,
    ) -> tuple[Score, ...]:
        """Every source's score of one reply, in parallel. A time-out is an invalid score.

        A source that fails for a cause in `PASSING` is asked once more: the caller samples anew
        where a score is invalid, and as long replies take longer to score, what is sampled
        instead is shorter on average. `on_second_try` is told the score that failed.
        """

        async def one(source: Source) -> Score:
            score = await self._ask(source, prompt, reply)
            if cause(score.error) in PASSING:
                on_second_try(score)
                score = await self._ask(source, prompt, reply)
            return score

        return tuple(await asyncio.gather(*(one(s) for s in SOURCES if s in self._scorers)))

    async def _ask(self, source: Source, prompt: Prompt, reply: str) -> Score:
        start = time.monotonic()
        try:
            score: Score = await self._scorers[source].call("score", prompt, reply)
            return score
        except CallTimeoutError as error:
            return Score.invalid(source, f"timeout: {error}", time.monotonic() - start)
        except RayError as error:  # what the scorer itself raised; its last line says what
            reason = str(error).strip().splitlines()[-1]
            return Score.invalid(source, f"actor: {reason}", time.monotonic() - start)

    def reward(self, scores: Sequence[Score]) -> Reward:
        """The combined reward of valid scores; a source that is off contributes nothing."""
        values = {s.source: s.value for s in scores if s.value is not None}
        return combine(
            self._config.enhancement,
            r_model=values.get("reward_model", 1.0),  # paper's formula without a reward model
            e_judge=values.get("judge", 0.0),
            e_func=values.get("rules", 0.0),
        )


def _count(scores: Sequence[Score], ledger: Ledger) -> str:
    """Counts one reply's scores. Says why the first invalid one is, or nothing.

    Raises `BudgetError` for a cause that another attempt would only meet again.
    """
    for score in scores:
        ledger.count_score(score)
        if score.source == "judge" and (final := cause(score.error)) in FINAL:
            raise BudgetError(final, score.error.partition(": ")[2])
    return next((f"{s.source}: {cause(s.error)}" for s in scores if not s.valid), "")


def sampling_seed(run_seed: int, sample_id: str) -> int:
    """A 63-bit seed for one sample, the same on every machine and after every restart."""
    digest = hashlib.sha256(f"{run_seed}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
