"""Collecting a batch: retries, drops and accounting, with stand-ins for the pools."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from repo_ray.actors.members import PoolError
from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config.settings import Config
from repo_ray.records import Dropped, Message, Prompt, Rollout, Score
from repo_ray.rollouts.publication import PublicationError
from repo_ray.training.collect import Collected, Collector, sampling_seed
from repo_ray.training.loop import _unwrap
from repo_ray.training.publication import check_versions

CONFIG = Config.model_validate({"run": {"max_attempts": 3}})


class StandIn:
    """Answers `call` as a pool does, by a function of the arguments."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append(args)
        await asyncio.sleep(0)
        return self.answer(*args)


def rollout(sample_id: str, prompt_id: str, attempt: int, tokens: Any, seed: int) -> Rollout:
    text = f"{prompt_id}/{attempt}"
    return Rollout(
        sample_id, prompt_id, attempt, tuple(tokens), (7,), (True,), (-0.5,), (0,), "stop", text
    )


def collect(
    judge: Callable[..., Any], sample: Callable[..., Any] = rollout, count: int = 3
) -> tuple[Collected, StandIn]:
    rollouts = StandIn(sample)
    scorers = {
        "reward_model": StandIn(lambda prompt, reply: Score("reward_model", 2.0)),
        "judge": StandIn(judge),
        "rules": StandIn(lambda prompt, reply: Score("rules", -10.0)),
    }
    collector = Collector(CONFIG, rollouts, scorers, lambda prompt: [1, 2])  # type: ignore[arg-type]
    prompts = [Prompt(f"p{i}", (Message("user", "hi"),)) for i in range(count)]
    return asyncio.run(collector.batch(5, prompts)), rollouts


def test_a_batch_is_in_prompt_order_with_the_papers_reward() -> None:
    collected, _ = collect(lambda prompt, reply: Score("judge", 30.0))
    assert [e.prompt.prompt_id for e in collected.experiences] == ["p0", "p1", "p2"]
    assert [e.reward.total for e in collected.experiences] == [2.0 + 2.0 * 20 / 100] * 3
    assert collected.ledger.balanced
    assert (collected.ledger.issued, collected.ledger.consumed) == (3, 3)


def test_an_invalid_score_samples_the_same_prompt_again_with_another_seed() -> None:
    def judge(prompt: Prompt, reply: str) -> Score:
        if reply == "p1/0":
            return Score.invalid("judge", "malformed: not JSON")
        return Score("judge", 0.0)

    collected, rollouts = collect(judge)
    assert [e.rollout.attempt for e in collected.experiences] == [0, 1, 0]
    assert collected.ledger.samples == 4
    assert collected.ledger.invalid == {"judge: malformed": 1}
    seeds = {call[4] for call in rollouts.calls}
    assert len(seeds) == 4


def test_a_prompt_is_dropped_with_its_cause_after_the_last_attempt() -> None:
    def judge(prompt: Prompt, reply: str) -> Score:
        if prompt.prompt_id == "p0":
            raise CallTimeoutError("judge-0.score took longer than 5 s")
        return Score("judge", 0.0)

    collected, rollouts = collect(judge)
    assert [e.prompt.prompt_id for e in collected.experiences] == ["p1", "p2"]
    assert collected.dropped == [Dropped("p0", position=0, attempts=3, cause="judge: timeout")]
    assert collected.ledger.dropped == {"judge: timeout": 1}
    assert collected.ledger.invalid == {"judge: timeout": 6}  # each of three samples twice
    assert len(rollouts.calls) == 5
    assert collected.ledger.discarded_tokens == [1, 1, 1]
    assert collected.ledger.balanced


@pytest.mark.parametrize(
    "failure",
    [
        CallTimeoutError("judge-0.score took longer than 5 s"),
        RayTaskError("score", "Traceback ...\nRuntimeError: out of memory", RuntimeError("x")),
        Score.invalid("judge", "timeout: no answer within 5 s (attempt 5)"),
    ],
)
def test_a_score_that_may_pass_is_asked_for_again_and_the_sample_is_kept(failure: Any) -> None:
    asked: Counter[str] = Counter()

    def judge(prompt: Prompt, reply: str) -> Score:
        asked[reply] += 1
        if reply == "p1/0" and asked[reply] == 1:
            if isinstance(failure, Score):
                return failure
            raise failure
        return Score("judge", 30.0)

    collected, rollouts = collect(judge)
    assert [e.rollout.attempt for e in collected.experiences] == [0, 0, 0]
    assert asked == {"p0/0": 1, "p1/0": 2, "p2/0": 1}
    assert len(rollouts.calls) == 3
    ledger = collected.ledger
    assert (ledger.scores, ledger.invalid.total(), ledger.discarded_tokens) == (10, 1, [])


@pytest.mark.parametrize("error", ["malformed: x", "refused: x", "raised: rule a", "memory: a"])
def test_a_failure_that_lies_in_the_reply_is_not_asked_about_again(error: str) -> None:
    asked: Counter[str] = Counter()

    def judge(prompt: Prompt, reply: str) -> Score:
        asked[reply] += 1
        return Score.invalid("judge", error) if reply == "p1/0" else Score("judge", 30.0)

    collected, _ = collect(judge)
    assert asked == {"p0/0": 1, "p1/0": 1, "p1/1": 1, "p2/0": 1}
    assert collected.ledger.discarded_tokens == [1]


def test_a_judge_that_may_spend_no_more_ends_the_batch_at_the_first_attempt() -> None:
    def judge(prompt: Prompt, reply: str) -> Score:
        return Score.invalid("judge", "spend_limit: 5 of 5 is spent")

    with pytest.raises(ExceptionGroup) as caught:
        collect(judge)
    assert {str(e) for e in caught.value.exceptions} == {"spend_limit: 5 of 5 is spent"}


def test_a_rollout_that_times_out_is_tried_again() -> None:
    def sample(sample_id: str, prompt_id: str, attempt: int, tokens: Any, seed: int) -> Rollout:
        if attempt == 0:
            raise CallTimeoutError("rollout-0.sample took longer than 600 s")
        return rollout(sample_id, prompt_id, attempt, tokens, seed)

    collected, _ = collect(lambda prompt, reply: Score("judge", 0.0), sample)
    assert [e.rollout.attempt for e in collected.experiences] == [1, 1, 1]
    assert collected.ledger.samples == 3


def refusal(error: Exception) -> Exception:
    """As `ActorPool.call` raises what the engine raised."""
    text = f"Traceback (most recent call last):\n{type(error).__name__}: {error}"
    return RayTaskError("sample", text, error).as_instanceof_cause()  # type: ignore[no-untyped-call, no-any-return]


def test_a_prompt_that_the_engine_refuses_is_dropped_after_its_attempts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def sample(sample_id: str, prompt_id: str, attempt: int, tokens: Any, seed: int) -> Rollout:
        if prompt_id == "p1" or (prompt_id, attempt) == ("p2", 0):
            raise refusal(ValueError("prompt of 9 tokens"))
        return rollout(sample_id, prompt_id, attempt, tokens, seed)

    collected, rollouts = collect(lambda prompt, reply: Score("judge", 0.0), sample)
    assert [e.rollout.sample_id for e in collected.experiences] == ["5-0-0", "5-2-1"]
    assert collected.dropped == [Dropped("p1", 1, 3, "rollout: ValueError")]
    assert collected.ledger.dropped == {"rollout: ValueError": 1}
    assert collected.ledger.balanced
    assert len(rollouts.calls) == 1 + 3 + 2
    assert (
        "sample 5-1-0 (prompt p1): RayTaskError(ValueError): ValueError: prompt of" in caplog.text
    )


def test_an_engine_without_a_verified_adapter_ends_the_batch() -> None:
    def sample(*args: Any) -> Rollout:
        raise refusal(PublicationError("nothing is sampled until a push succeeds"))

    with pytest.raises(ExceptionGroup) as caught:
        collect(lambda prompt, reply: Score("judge", 0.0), sample)
    assert all(isinstance(e, PublicationError) for e in caught.value.exceptions)


def test_a_pool_that_gave_up_stops_the_batch_with_its_own_error() -> None:
    def judge(prompt: Prompt, reply: str) -> Score:
        raise PoolError("pool judge: more than 20 restarts")

    async def body() -> None:
        collector = Collector(
            CONFIG,
            StandIn(rollout),  # type: ignore[arg-type]
            {"judge": StandIn(judge)},  # type: ignore[dict-item]
            lambda prompt: [1],
        )
        task = asyncio.ensure_future(collector.batch(0, [Prompt("p", ())]))
        await asyncio.wait({task})
        with pytest.raises(PoolError, match="more than 20 restarts"):
            _unwrap(task)

    asyncio.run(body())


def test_sampling_seeds_are_fixed_and_fit_into_63_bits() -> None:
    assert sampling_seed(0, "3-1-0") == sampling_seed(0, "3-1-0")
    assert sampling_seed(0, "3-1-0") != sampling_seed(1, "3-1-0")
    assert all(0 <= sampling_seed(s, "x") < 2**63 for s in range(50))


def test_tokens_of_a_version_that_missed_a_push_stop_the_run() -> None:
    check_versions({4, 5}, learner_version=5, staleness=1)
    with pytest.raises(PublicationError, match="missed a push"):
        check_versions({3, 5}, learner_version=5, staleness=1)
    with pytest.raises(PublicationError, match="missed a push"):
        check_versions({4}, learner_version=5, staleness=0)


def test_an_open_batchs_accounting_can_be_read_while_it_goes_on() -> None:
    seen: list[tuple[int, int]] = []

    def judge(prompt: Prompt, reply: str) -> Score:
        ledger = collector.open[5]
        seen.append((ledger.issued, ledger.samples))
        return Score("judge", 0.0)

    scorers = {"judge": StandIn(judge)}
    collector = Collector(CONFIG, StandIn(rollout), scorers, lambda prompt: [1, 2])  # type: ignore[arg-type]
    prompts = [Prompt(f"p{i}", (Message("user", "hi"),)) for i in range(3)]
    collected = asyncio.run(collector.batch(5, prompts))
    assert {issued for issued, _ in seen} == {3}
    assert 1 <= seen[0][1] <= 3
    assert collector.open.pop(5) is collected.ledger
