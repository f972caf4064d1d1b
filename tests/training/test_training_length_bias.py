"""What a judge's time limit does to the length of replies in a batch, measured."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config.settings import Config
from repo_ray.records import Message, Prompt, Rollout, Score
from repo_ray.training.collect import Collector, sampling_seed
from repo_ray.training.loop import batch_metrics

PROMPTS, LONGEST = 4000, 100
CONFIG = Config.model_validate({"run": {"max_attempts": 3}})


class Pool:
    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer

    async def call(self, method: str, *args: Any) -> Any:
        await asyncio.sleep(0)
        return self.answer(*args)


def sample(sample_id: str, prompt_id: str, attempt: int, tokens: Any, seed: int) -> Rollout:
    """A reply of 1 to 100 tokens, each length as likely as any other."""
    n = 1 + seed % LONGEST
    return Rollout(
        sample_id, prompt_id, attempt, (1,), (7,) * n, (True,) * n, (-0.5,) * n, (0,) * n,
        "stop", "word " * n,
    )  # fmt: skip


def late(reply: str) -> Score:
    """As the pool reports a time-out: it is asked again."""
    raise CallTimeoutError("judge-0.score took longer than its limit")


def late_and_final(reply: str) -> Score:
    """The same failure under a cause that is not asked again."""
    return Score.invalid("judge", "late: no second try")


@dataclass(frozen=True)
class Measured:
    """Mean tokens: the batch's less those without a limit, the batch's, those of what was thrown
    away (as the row of `metrics.jsonl` has them); and how many prompts were dropped."""

    bias: float
    kept: float
    discarded: float | None
    dropped: int


def measure(limit: float, stalls: float, fails: Callable[[str], Score]) -> Measured:
    """A judge that takes a unit of time per token, and with the probability `stalls` four; what
    takes longer than `limit` fails. Lengths are a function of prompt and attempt."""
    rng = random.Random(1)

    def judge(prompt: Prompt, reply: str) -> Score:
        slowness = 4 if rng.random() < stalls else 1
        return fails(reply) if len(reply.split()) * slowness > limit else Score("judge", 0.0)

    pools = {"judge": Pool(judge)}
    collector = Collector(CONFIG, Pool(sample), pools, lambda prompt: [1])  # type: ignore[arg-type]
    prompts = [Prompt(f"p{i}", (Message("user", "hi"),)) for i in range(PROMPTS)]
    collected = asyncio.run(collector.batch(0, prompts))
    row = batch_metrics(collected.experiences, collected.ledger.discarded_tokens)
    kept, discarded = row["reply/tokens"], row.get("reply/discarded_tokens")
    first = (sampling_seed(CONFIG.run.seed, f"0-{i}-0") for i in range(PROMPTS))
    unlimited = fmean(1 + seed % LONGEST for seed in first)
    return Measured(kept - unlimited, kept, discarded, collected.ledger.dropped.total())


def test_without_a_limit_there_is_no_bias() -> None:
    measured = measure(LONGEST, 0.0, late)
    assert (measured.bias, measured.discarded) == (0.0, None)


def test_a_second_try_takes_most_of_the_bias_of_a_judge_that_stalls_now_and_then() -> None:
    """A quarter of the requests is slow, which long replies do not survive: three quarters of the
    loss is chance, and asking again mends it."""
    without, again = measure(LONGEST, 0.25, late_and_final), measure(LONGEST, 0.25, late)
    print(f"mean length 50.5 tokens; one try: {without.bias:+.2f}, a second: {again.bias:+.2f}")
    # By hand: replies over 25 tokens have 3/4, or 15/16, of the weight of the others.
    assert abs(without.bias - (-2.9)) < 0.7
    assert abs(again.bias - (-0.6)) < 0.4


def test_a_limit_that_long_replies_always_miss_biases_whatever_is_retried_and_shows() -> None:
    """The judge needs 100 for the longest replies and has 80."""
    without, again = measure(80, 0.0, late_and_final), measure(80, 0.0, late)
    print(
        f"limit 80 of 100; one try: {without.bias:+.2f}, a second: {again.bias:+.2f} tokens; "
        f"kept {again.kept:.1f}, discarded {again.discarded:.1f}, dropped {again.dropped}"
    )
    assert again == without  # no retry helps
    assert abs(again.bias - (40.5 - 50.5)) < 1.0
    assert again.discarded is not None
    assert 89 < again.discarded < 92  # `reply/discarded_tokens`: 81 to 100 tokens
    assert again.discarded > 2 * again.kept  # beside `reply/tokens`
