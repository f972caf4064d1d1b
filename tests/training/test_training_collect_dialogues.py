"""Collecting dialogues: scores while they go on, retries of the whole, accounting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dialogue_cases import FakeEpisode, encode, rollout_of

from repo_ray.actors.members import PoolError
from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config.settings import Config
from repo_ray.negotiation.hotelier.moves import HotelierError
from repo_ray.records import Message, Prompt, Rollout, Score
from repo_ray.training.collect import Collected, Collector
from repo_ray.training.dialogues import Episodes
from repo_ray.training.loop import _unwrap

CONFIG = Config.model_validate({"run": {"max_attempts": 3}, "dialogue": {"max_turns": 6}})
ANSWERS = ("Why?", "Fine.")


class StandIn:
    """Answers `call` as a pool does, by a function of the arguments."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append(args)
        await asyncio.sleep(0)
        answer = self.answer(*args)
        return await answer if isinstance(answer, Awaitable) else answer


def turn_of(sample_id: str) -> int:
    return int(sample_id.rpartition("-")[2])


def reply(sample_id: str, prompt_id: str, attempt: int, tokens: Any, seed: int) -> Rollout:
    return rollout_of(sample_id, prompt_id, attempt, tokens, f"{attempt}.{turn_of(sample_id)}")


def fine(prompt: Prompt, reply: str) -> Score:
    return Score("judge", 30.0)


@pytest.fixture(autouse=True)
def episodes(monkeypatch: pytest.MonkeyPatch) -> list[FakeEpisode]:
    """Every episode that was opened, in order."""
    opened: list[FakeEpisode] = []

    def reopen(self: Episodes, opening: Prompt) -> FakeEpisode:
        opened.append(FakeEpisode(ANSWERS, opening.prompt_id))
        return opened[-1]

    monkeypatch.setattr(Episodes, "reopen", reopen)
    return opened


def collector(
    judge: Callable[..., Any], sample: Callable[..., Any] = reply, config: Config = CONFIG
) -> Collector:
    scorers = {
        "reward_model": StandIn(lambda prompt, reply: Score("reward_model", 2.0)),
        "judge": StandIn(judge),
        "rules": StandIn(lambda prompt, reply: Score("rules", -10.0)),
    }
    return Collector(config, StandIn(sample), scorers, encode)  # type: ignore[arg-type]


def batch(made: Collector, count: int = 2) -> Collected:
    prompts = [Prompt(f"episode-{i}", (Message("user", "Hello?"),)) for i in range(count)]
    return asyncio.run(made.batch(5, prompts))


def test_each_episode_becomes_one_experience_with_a_scored_turn_per_reply() -> None:
    seen: list[tuple[str, str, int]] = []

    def judge(prompt: Prompt, reply: str) -> Score:
        seen.append((prompt.messages[-1].content, reply, prompt.context["turn"]))
        return Score("judge", 30.0 if reply == "0.1" else -30.0)

    made = collector(judge)
    collected = batch(made)
    assert [e.prompt.prompt_id for e in collected.experiences] == ["episode-0", "episode-1"]
    assert sorted(seen) == [("Hello?", "0.1", 0)] * 2 + [("Why?", "0.2", 1)] * 2
    one = collected.experiences[0]
    assert [t.reward.total for t in one.turns] == pytest.approx([2 + 2 * 0.2, 2 - 2 * 0.4])
    assert [r for _, r in one.token_rewards] == [t.reward.total for t in one.turns]
    assert one.reward.total == pytest.approx(1.8)
    assert one.rollout.sample_id == "5-0-0"
    ledger = collected.ledger
    assert (ledger.issued, ledger.consumed, ledger.samples, ledger.scores) == (2, 2, 4, 12)
    assert ledger.balanced
    assert collected.tokens == 4 * len("0.1#")  # the sampled ones: text and end of turn
    seeds = {call[4] for call in made._rollout.calls}  # type: ignore[attr-defined]
    assert len(seeds) == 4


def test_rewards_at_the_end_are_by_config() -> None:
    config = CONFIG.model_copy(
        update={"dialogue": CONFIG.dialogue.model_copy(update={"reward": "end"})}  # type: ignore[union-attr]
    )
    (one, _) = batch(collector(fine, config=config)).experiences
    assert one.token_rewards == ((len(one.rollout.token_ids) - 1, pytest.approx(2.4)),)


def test_a_turn_is_scored_while_the_next_one_is_sampled() -> None:
    async def body() -> None:
        sampled = asyncio.Event()

        async def judge(prompt: Prompt, reply: str) -> Score:
            if reply.endswith(".1"):
                await asyncio.wait_for(sampled.wait(), 5)
            return Score("judge", 0.0)

        def sample(sample_id: str, *args: Any) -> Rollout:
            if turn_of(sample_id) == 2:
                sampled.set()
            return reply(sample_id, *args)

        prompts = [Prompt("episode-0", ())]
        assert len((await collector(judge, sample).batch(0, prompts)).experiences) == 1

    asyncio.run(body())


def test_one_invalid_score_plays_the_same_episode_again_from_its_beginning(
    episodes: list[FakeEpisode],
) -> None:
    def judge(prompt: Prompt, reply: str) -> Score:
        if prompt.prompt_id == "episode-1" and reply == "0.1":
            return Score.invalid("judge", "malformed: not JSON")
        return fine(prompt, reply)

    collected = batch(collector(judge))
    assert [e.rollout.attempt for e in collected.experiences] == [0, 1]
    assert [t.reply for t in collected.experiences[1].turns] == ["1.1", "1.2"]
    assert [e.prompt_id for e in episodes].count("episode-1") == 2
    assert collected.ledger.samples == 6
    assert collected.ledger.invalid == {"judge: malformed": 1}


def test_an_episode_is_dropped_with_its_cause_after_the_last_attempt() -> None:
    def judge(prompt: Prompt, reply: str) -> Score:
        if prompt.prompt_id == "episode-0" and reply.endswith(".2"):
            raise CallTimeoutError("judge-0.score took longer than 5 s")
        return fine(prompt, reply)

    collected = batch(collector(judge))
    assert [e.prompt.prompt_id for e in collected.experiences] == ["episode-1"]
    assert collected.ledger.dropped == {"judge: timeout": 1}
    assert collected.ledger.invalid == {"judge: timeout": 6}  # each of three replies twice
    assert collected.ledger.discarded_tokens == [len("0.1#")] * 3
    assert collected.ledger.balanced


def test_a_turn_whose_rollout_times_out_plays_the_episode_again() -> None:
    async def judge(prompt: Prompt, reply: str) -> Score:
        if reply == "0.1":  # never answers; given up with its dialogue
            await asyncio.Event().wait()
        return fine(prompt, reply)

    def sample(sample_id: str, prompt_id: str, attempt: int, *args: Any) -> Rollout:
        if (attempt, turn_of(sample_id)) == (0, 2):
            raise CallTimeoutError("rollout-0.sample took longer than 600 s")
        return reply(sample_id, prompt_id, attempt, *args)

    collected = batch(collector(judge, sample))
    assert [e.rollout.attempt for e in collected.experiences] == [1, 1]
    assert collected.ledger.samples == 6
    assert not collected.ledger.invalid


def test_a_hotelier_that_cannot_answer_costs_an_attempt(
    episodes: list[FakeEpisode], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = FakeEpisode.answer

    async def failing(self: FakeEpisode, reply: str) -> bool:
        if self.prompt_id == "episode-0" or len(episodes) <= 2:
            raise HotelierError("timeout", "no answer within 60 s")
        return await answer(self, reply)

    monkeypatch.setattr(FakeEpisode, "answer", failing)
    collected = batch(collector(fine))
    assert [e.prompt.prompt_id for e in collected.experiences] == ["episode-1"]
    assert collected.experiences[0].rollout.attempt == 1
    assert collected.ledger.dropped == {"hotelier: timeout": 1}
    assert collected.ledger.balanced


def test_a_pool_that_gave_up_stops_the_batch_with_its_own_error() -> None:
    def judge(prompt: Prompt, reply: str) -> Score:
        raise PoolError("pool judge: more than 20 restarts")

    async def body() -> None:
        task = asyncio.ensure_future(collector(judge).batch(0, [Prompt("episode-0", ())]))
        await asyncio.wait({task})
        with pytest.raises(PoolError, match="more than 20 restarts"):
            _unwrap(task)

    asyncio.run(body())
