"""Dialogues turn by turn: what is appended, what the loss counts, where rewards go."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dialogue_cases import END, START, FakeEpisode, between, encode, ids_of, rollout_of
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.config.dialogue import DialogueConfig
from repo_ray.config.rewards import EnhancementConfig
from repo_ray.evaluation.evaluate import gold_curve
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.learner.table import SampleUpdate
from repo_ray.records import Message, Prompt, Reward, Rollout, Score, ScoreDetail, turn_rows
from repo_ray.rewards.rescore import rescore
from repo_ray.rewards.rules.registry import Rule
from repo_ray.rewards.rules.rule_set import PointedRule, RuleSet
from repo_ray.training.dialogues import (
    Episodes,
    Played,
    dialogue_experience,
    join,
    negotiate,
    play,
)
from repo_ray.training.trajectories import write_trajectories

OPENING = [
    *(START, *map(ord, "system\nSell."), END, 10),
    *(START, *map(ord, "user\nHello?"), END, 10),
    *(START, *map(ord, "assistant\n")),
]


def playing(
    replies: list[str],
    answers: list[str],
    *,
    ended: list[bool] | None = None,
    versions: list[int] | None = None,
    max_turns: int = 99,
    room: int = 10_000,
    facts: tuple[str, ...] = ("Sell.",),
) -> Played:
    """Plays `replies` against `answers`."""

    async def sample(turn: int, token_ids: list[int]) -> Rollout:
        return rollout_of(
            f"s-{turn}",
            "episode-7",
            2,
            token_ids,
            replies[turn - 1],
            ended=ended[turn - 1] if ended else True,
            version=versions[turn - 1] if versions else 0,
            engine=f"rollout-{turn % 2}",
        )

    episode = FakeEpisode(answers, facts=facts)
    return asyncio.run(play(episode, sample, encode, max_turns, room))


def test_sampled_tokens_are_appended_and_only_they_count() -> None:
    played = playing(["Hi", "380?"], ["Why?", "Fine."], versions=[4, 5])
    rollout, ends = join("3-0-2", played)
    assert list(rollout.prompt_token_ids) == OPENING
    first, gap, second = ids_of("Hi"), between("Why?"), ids_of("380?")
    assert rollout.token_ids == (*first, *gap, *second)
    assert rollout.loss_mask == (True,) * 3 + (False,) * len(gap) + (True,) * 5
    assert rollout.logprobs == (-1, -2, -3, *[0] * len(gap), -1, -2, -3, -4, -5)
    assert rollout.versions == (4, 4, 4, *[5] * len(gap), 5, 5, 5, 5, 5)
    assert ends == [2, 2 + len(gap) + 5]
    assert (rollout.sample_id, rollout.prompt_id, rollout.attempt) == ("3-0-2", "episode-7", 2)
    assert (rollout.text, rollout.finish_reason) == ("Hi\n380?", "stop")
    assert (rollout.engine, rollout.latency_s) == ("rollout-1, rollout-0", 1.0)


def test_sampled_ids_stay_even_where_their_text_would_be_tokenised_otherwise() -> None:
    spelled = (3_000_000, 3_000_001, END)  # two ids that decode to "Hi", and are no code of it

    async def sample(turn: int, token_ids: list[int]) -> Rollout:
        rollout = rollout_of("s", "p", 0, token_ids, "Hi")
        return replace(rollout, token_ids=spelled)

    episode = FakeEpisode(["Why?", "Fine."])
    played = asyncio.run(play(episode, sample, encode, 9, 10_000))
    assert played.rollouts[1].prompt_token_ids == (*OPENING, *spelled, *between("Why?"))
    assert join("s", played)[0].token_ids == (*spelled, *between("Why?"), *spelled)


def test_a_cut_reply_is_closed_by_a_token_that_the_loss_does_not_count() -> None:
    played = playing(["I ca", "380?"], ["Why?", "Fine."], ended=[False, True])
    rollout, ends = join("s", played)
    gap = [END, *between("Why?")]
    assert rollout.token_ids == (*ids_of("I ca", ended=False), *gap, *ids_of("380?"))
    assert rollout.loss_mask == (True,) * 4 + (False,) * len(gap) + (True,) * 5
    assert ends[0] == 3
    assert rollout.finish_reason == "stop"  # of the last reply


def test_nothing_follows_a_last_reply_that_was_cut() -> None:
    rollout, _ = join("s", playing(["Hi", "I ca"], ["Why?", "-"], ended=[True, False]))
    assert rollout.token_ids[-4:] == ids_of("I ca", ended=False)
    assert rollout.finish_reason == "length"


def test_the_agent_has_today_s_facts_and_the_growing_conversation() -> None:
    played = playing(["a", "b"], ["x", "y"])
    assert [p.context for p in played.prompts] == [{"turn": 0}, {"turn": 1}]
    assert played.prompts[1].messages == (
        *(Message("system", "Sell."), Message("user", "Hello?")),
        *(Message("assistant", "a"), Message("user", "x")),
    )


def test_new_facts_come_before_the_hotelier_s_message_and_only_when_they_are_new() -> None:
    facts = ("Sell.", "Sell for 380.", "Sell for 380.", "Sold.")
    played = playing(["a", "b", "c", "d"], ["w", "x", "y", "z"], facts=facts)
    rollout, _ = join("s", played)
    at = [10, START, *map(ord, "system\nSell for 380."), END, *between("w")]
    then = [10, START, *map(ord, "system\nSold."), END, *between("y")]
    assert rollout.token_ids == (
        *(*ids_of("a"), *at),
        *(*ids_of("b"), *between("x")),
        *(*ids_of("c"), *then),
        *ids_of("d"),
    )
    # For the scorers, today's facts stand at the head, as in the data that they were trained on.
    assert [p.messages[0].content for p in played.prompts] == list(facts)
    assert [m.role for m in played.prompts[3].messages].count("system") == 1


def test_a_dialogue_stops_at_its_largest_number_of_turns() -> None:
    played = playing(["a", "b", "c"], ["x", "y", "z"], max_turns=2)
    assert len(played.rollouts) == 2
    assert not played.cut


def test_a_dialogue_ends_where_the_context_has_no_room_for_another_turn() -> None:
    second = len(OPENING) + len(ids_of("a")) + len(between("x"))
    fits = playing(["a", "b"], ["x", "y"], room=second)
    assert (len(fits.rollouts), fits.cut) == (2, False)
    full = playing(["a", "b"], ["x", "y"], room=second - 1)
    assert (len(full.rollouts), full.cut) == (1, True)
    assert join("s", full)[0].finish_reason == "length"


def test_an_episode_that_rewrites_what_was_said_is_refused() -> None:
    class Forgetful(FakeEpisode):
        async def answer(self, reply: str) -> bool:
            over = await super().answer(reply)
            self.chat = (Message("user", "Who is it?"), *self.chat[1:])
            return over

    async def sample(turn: int, token_ids: list[int]) -> Rollout:
        return rollout_of("s", "p", 0, token_ids, "a")

    with pytest.raises(ValueError, match="episode-7: turn 1 must add a reply and an answer"):
        asyncio.run(play(Forgetful(["x", "y"]), sample, encode, 9, 10_000))


TEXT = st.text(st.characters(max_codepoint=0x2FF), max_size=6)


@given(
    st.lists(st.tuples(TEXT, TEXT, st.booleans()), min_size=1, max_size=5),
    st.integers(len(OPENING), len(OPENING) + 200),
)
def test_bookkeeping_of_any_dialogue(turns: list[tuple[str, str, bool]], room: int) -> None:
    turns = [(reply or "-", answer, ended) for reply, answer, ended in turns]
    replies, answers, ended = (list(column) for column in zip(*turns, strict=True))
    played = playing(replies, answers, ended=ended, versions=list(range(5)), room=room)
    rollout, ends = join("s", played)
    count = len(played.rollouts)

    # What the loss counts is exactly what was sampled, in order, with its own numbers.
    sampled = [
        (t, p, v)
        for t, m, p, v in zip(
            rollout.token_ids, rollout.loss_mask, rollout.logprobs, rollout.versions, strict=True
        )
        if m
    ]
    assert sampled == [
        (t, -1.0 - i, turn)
        for turn in range(count)
        for i, t in enumerate(ids_of(replies[turn], ended[turn]))
    ]
    # Every reply was sampled to exactly the tokens that the learner has before it.
    whole = (*rollout.prompt_token_ids, *rollout.token_ids)
    for turn, end in enumerate(ends):
        own = ids_of(replies[turn], ended[turn])
        after = len(rollout.prompt_token_ids) + end + 1
        assert whole[after - len(own) : after] == own
        assert played.rollouts[turn].prompt_token_ids == whole[: after - len(own)]
    # All of it is the conversation as the chat format renders it, up to the last end of turn.
    messages = (
        *played.prompts[-1].messages,
        Message("assistant", replies[count - 1]),
    )
    rendered = encode(Prompt("p", messages))[: -len([10, START, *"assistant\n"])]
    assert list(whole) == (rendered if ended[count - 1] else rendered[:-1])
    assert all(len(r.prompt_token_ids) <= room for r in played.rollouts)
    assert played.cut == (count < len(turns))


# --- rewards -----------------------------------------------------------------------------


def reward(total: float) -> Reward:
    return Reward(total, total / 2, 10 * total, -5.0, 10 * total - 5, 1.5)


def experience(place: Any) -> Any:
    played = playing(["Hi", "380?"], ["Why?", "Fine."], facts=("Sell.", "Sell now."))
    scores = [
        (Score("judge", value, {"kind": ScoreDetail(value, "", 0.5)}), Score("rules", -5.0))
        for value in (10.0, 30.0)
    ]
    return dialogue_experience("3-0-0", played, scores, [reward(1.0), reward(3.0)], place)


def test_the_reward_of_each_turn_is_on_its_own_last_token() -> None:
    made = experience("turn")
    end = len(made.rollout.token_ids) - 1
    assert made.token_rewards == ((2, 1.0), (end, 3.0))
    assert made.reward == Reward(2.0, 1.0, 20.0, -5.0, 15.0, 1.5)
    assert [s.value for s in made.scores] == [10.0, -5.0, 30.0, -5.0]
    assert [(t.reply, t.last_token, t.reward.total) for t in made.turns] == [
        ("Hi", 2, 1.0),
        ("380?", end, 3.0),
    ]


def test_at_the_end_is_the_mean_of_the_turns() -> None:
    made = experience("end")
    assert made.token_rewards == ((len(made.rollout.token_ids) - 1, 2.0),)
    assert made.reward.total == 2.0


# --- training episodes -------------------------------------------------------------------


def episodes(seed: int) -> Episodes:
    return Episodes(DialogueConfig(max_turns=3), seed)


def test_openings_depend_on_run_seed_and_position_alone() -> None:
    few, many = episodes(0).openings(4), episodes(0).openings(9)
    assert many[:4] == few
    assert len({p.prompt_id for p in many}) == 9
    assert not {p.prompt_id for p in many} & {p.prompt_id for p in episodes(1).openings(9)}


def test_an_opening_is_turned_back_into_its_own_negotiation() -> None:
    """As a retry or a resumed run does: the same replies, the same dialogue."""
    (opening,) = episodes(5).openings(1)
    replies = ["Good morning, is it you who decides on the rates?", "Could you do 300 for T1?"]

    async def talk() -> list[Prompt]:
        episode = episodes(5).reopen(opening)
        seen = [episode.prompt()]
        for reply in replies:
            await episode.answer(reply)
            seen.append(episode.prompt())
        return seen

    once, again = asyncio.run(talk()), asyncio.run(talk())
    assert once[0] == opening
    assert once == again
    assert len({p.messages for p in once}) == 3


# --- evaluation --------------------------------------------------------------------------


def test_evaluation_gets_the_truth_before_each_reply_and_the_outcome() -> None:
    episode = FakeEpisode(["x", "y"], secret=True)

    async def sample(turn: int, token_ids: list[int]) -> Rollout:
        return rollout_of("s", "p", 0, token_ids, "ab"[turn - 1], ended=turn == 1)

    made = asyncio.run(negotiate(7, episode, sample, encode, 9, 10_000))
    assert (made.episode_seed, made.prompt_id, made.outcome) == (7, "episode-7", {"turns": 2})
    assert [t.hidden["reservation"] for t in made.turns] == [300, 299]
    assert [(t.reply, t.finish_reason, t.tokens) for t in made.turns] == [
        ("a", "stop", 2),
        ("b", "length", 1),
    ]
    assert [len(t.prompt.messages) for t in made.turns] == [2, 4]


# --- trajectories ------------------------------------------------------------------------


def saved_row(folder: Path, place: str) -> dict[str, Any]:
    made = experience(place)
    numbers = [0.25] * len(made.rollout.token_ids)
    learned = SampleUpdate("3-0-0", *[numbers] * 6)
    path = write_trajectories(folder, 3, [made], UpdateResult({}, [learned]))
    (row,) = pq.read_table(path).to_pylist()
    return row


def test_a_dialogue_s_row_is_its_last_turn_and_holds_all_of_them(tmp_path: Path) -> None:
    row = saved_row(tmp_path, "turn")
    assert (row["reply"], row["reward"], row["e_judge"]) == ("380?", 3.0, 30.0)
    assert json.loads(row["scores"])["judge"]["value"] == 30.0
    assert [m["content"] for m in row["messages"]] == ["Sell now.", "Hello?", "Hi", "Why?"]
    assert json.loads(row["context"]) == {"turn": 1}
    assert row["token_rewards"][0] == {"token": 2, "reward": 1.0}
    assert len(row["advantages"]) == len(row["token_ids"]) == len(row["loss_mask"])

    first, second = turn_rows(row)
    assert (first["sample_id"], first["reply"], first["reward"]) == ("3-0-0-1", "Hi", 1.0)
    assert [m["content"] for m in first["messages"]] == ["Sell.", "Hello?"]
    assert (first["r_model"], first["e_judge"], first["multiplier"]) == (0.5, 10.0, 1.5)
    assert json.loads(first["context"]) == {"turn": 0}
    assert json.loads(first["scores"])["judge"]["value"] == 10.0
    for name in ("messages", "context", "reply", "reward", "r_model", "e_judge", "scores"):
        assert second[name] == row[name]


def test_the_row_of_a_single_reply_is_its_only_turn() -> None:
    row = {"sample_id": "s", "reply": "x", "turns": None}
    assert turn_rows(row) == [row]
    assert turn_rows({"sample_id": "s"}) == [{"sample_id": "s"}]


def test_rescoring_reads_dialogues_whole_and_turn_by_turn(tmp_path: Path) -> None:
    def short(reply: str, prompt: Prompt) -> str | None:
        return f"{len(prompt.messages)} messages" if len(reply) < 3 else None

    rules = RuleSet((PointedRule(Rule("short", short), -50.0),))
    row = saved_row(tmp_path, "end")
    whole = rescore([row], rules, None, EnhancementConfig()).table.to_pylist()
    assert [(r["reply"], r["new_e_func"]) for r in whole] == [("380?", 0.0)]
    turns = rescore(turn_rows(row), rules, None, EnhancementConfig()).table.to_pylist()
    assert [(r["reply"], r["new_e_func"]) for r in turns] == [("Hi", -50.0), ("380?", 0.0)]
    assert turns[0]["new_rules"] == "short -50: 2 messages"


def test_the_gold_curve_reads_dialogues_whole_and_turn_by_turn(tmp_path: Path) -> None:
    row = saved_row(tmp_path, "turn")
    item = {"room": "Deluxe", "net_price": 400, "target_price": 350, "mandate": 380}
    context = {"context": json.dumps({"items": [item]})}
    row = row | context
    first, second = (turn | context for turn in turn_rows(row))
    alone = [gold_curve([r], {})[0]["gold_score"] for r in (first, second)]
    (whole,) = gold_curve([row], {})
    assert (whole["step"], whole["gold_score"]) == (4.0, alone[1])
    (both,) = gold_curve([first, second], {})
    assert both["gold_score"] == pytest.approx(sum(alone) / 2)
    assert alone[0] != alone[1]
