"""Scenarios, grammar, states and composed replies."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.negotiation.dialogue import context_of, full_path, path_to, play
from repo_ray.negotiation.grammar import Draft, bank, colloquial, join
from repo_ray.negotiation.pairs import SWAPS, turn_in
from repo_ray.negotiation.replies import Style, compose
from repo_ray.negotiation.scenarios import HOTEL_TYPES, generate_scenario
from repo_ray.negotiation.situations import SITUATIONS
from repo_ray.negotiation.sop import Stage
from repo_ray.negotiation.verdicts import labels


@given(st.integers(0, 10**6))
def test_prices_are_ordered_and_distinct(seed: int) -> None:
    scenario = generate_scenario(Random(seed))
    assert scenario == generate_scenario(Random(seed))
    assert 1 <= len(scenario.items) <= 3
    for i in scenario.items:
        assert i.target_price < i.mandate < i.net_price < i.competitor_price < i.selling_price
        assert 0 < scenario.reservation_price[i.ticket] <= i.net_price
    assert len(scenario.prices) == 5 * len(scenario.items)


def test_every_bank_has_both_splits_with_different_families() -> None:
    for name in ("hotelier", "replies", "flaws"):
        for kind, splits in bank(name).items():
            assert set(splits) == {"train", "heldout"}, kind
            assert not set(splits["train"]) & set(splits["heldout"]), kind
            texts = [t for s in splits.values() for f in s.values() for t in f]
            assert len(texts) == len(set(texts)) >= 2, kind
    assert {s.act for s in SITUATIONS.values()} == set(bank("hotelier"))
    assert {f"reason.{t}" for t in HOTEL_TYPES} <= set(bank("replies"))


def test_draft_filling_and_joining() -> None:
    draft = Draft("from <quote:T1> to <ask:T1>, or <ask:T2>?", frozenset({"f"}))
    assert draft.numbers == ("quote:T1", "ask:T1", "ask:T2")
    assert draft.fill({"quote:T1": 9, "ask:T1": 8, "ask:T2": 7}) == "from 9 to 8, or 7?"
    with pytest.raises(KeyError):
        draft.fill({"quote:T1": 9})
    parts = [Draft(t, frozenset({t})) for t in ("About the price:", "Could you?", "thanks.")]
    assert join(parts).text == "About the price: could you? Thanks."
    assert join(parts).families == {"About the price:", "Could you?", "thanks."}


@given(st.text("abcdefgh 0123456789.?", max_size=60), st.integers(0, 1000))
def test_colloquial_typing_keeps_the_numbers(text: str, seed: int) -> None:
    typed = colloquial(text, Random(seed))
    assert re.findall(r"\d+", typed) == re.findall(r"\d+", text)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_path_leads_to_each_situation(situation: str) -> None:
    for seed in range(10):
        turn = turn_in(situation, "train", Random(seed))
        state = turn.state
        assert state.situation == situation
        assert turn.chat[-1].role == "user"
        if situation == "settled":
            assert not state.open_items
        if state.spec.stage is Stage.CONFIRM:
            assert state.due_items
        if situation == "quote_high":
            assert any(state.quotes[i.ticket] > i.mandate for i in state.open_items[:1])
            assert not state.due_items


def test_skipped_turns_leave_the_same_kind_of_state() -> None:
    path = path_to("settled", Random(1))
    whole = play(generate_scenario(Random(2)), path, "train", Random(3))
    short = play(generate_scenario(Random(2)), path, "train", Random(3), last=2)
    assert len(whole) == len(path)
    assert len(short) == 2
    assert short[-1].state.agreed == whole[-1].state.agreed


def test_good_replies_state_only_known_numbers_and_settle_within_mandate() -> None:
    for seed in range(150):
        rng = Random(seed)
        for turn in play(generate_scenario(rng), full_path(rng, 6), "heldout", rng):
            context = context_of(turn.state)
            known = {v for i in context["items"] for v in i.values() if isinstance(v, int)}
            said = set(map(int, re.findall(r"\d{2,}", turn.reply.text)))
            assert said <= known | set(context["quotes"].values())
            for item in turn.state.scenario.items:
                if item.ticket in context["agreed"]:
                    assert context["quotes"][item.ticket] <= item.mandate


def test_good_replies_name_every_open_ticket_when_asking_or_accepting() -> None:
    for seed in range(60):
        for situation in ("interest", "quote_low", "agree", "silence"):
            turn = turn_in(situation, "train", Random(seed), tickets=2)
            for item in turn.state.open_items:
                assert item.room in turn.reply.text or item.ticket in turn.reply.text


def test_swaps_are_mirrored() -> None:
    for first, second in SWAPS:
        assert (first.right, first.wrong) == (second.wrong, second.right)
        for case in (first, second):
            for situation in case.situations:
                assert case.right in SITUATIONS[situation].actions
                assert case.wrong not in SITUATIONS[situation].actions


@pytest.mark.parametrize(
    ("situation", "action", "expected"),
    [
        ("silence", "accept", "misread_silence"),
        ("vague", "close", "misread_silence"),
        ("settled", "ask", "still_pursuing_price"),
        ("settled", "accept_query", "repeated_confirmation"),
        ("quote_low", "ask", "still_pursuing_price"),
        ("agree", "check_in", "repeated_confirmation"),
        ("agree", "accept_query", "repeated_confirmation"),
        ("quote_low", "accept", "sop_compliance"),
        ("settled", "close", "sop_compliance"),
        ("silence", "check_in", "sop_compliance"),
    ],
)
def test_labels_of_what_a_reply_does(situation: str, action: str, expected: str) -> None:
    turn = turn_in(situation, "train", Random(4), tickets=1)
    plain = Style(empathy=False, reason=False)
    reply = compose(turn.state, action, plain, "train", Random(5))  # type: ignore[arg-type]
    found = labels(turn.state, reply)
    assert [name for name, applies in found.items() if applies] == [expected]


def test_labels_of_how_a_reply_is_dressed() -> None:
    turn = turn_in("cost", "train", Random(4), tickets=1)

    def found(**style: bool) -> set[str]:
        dress = Style(**{"empathy": False, "reason": False, **style})
        made = compose(turn.state, "ask", dress, "train", Random(6))
        return {k for k, v in labels(turn.state, made).items() if v} - {"sop_compliance"}

    assert found() == set()
    assert found(empathy=True) == {"emotional_value"}
    assert found(reason=True) == {"persuasion_style"}
    assert found(reason=True, promise=True) == {"persuasion_style", "over_promising"}
    assert found(empathy=True, pressure=True, reason=True) == {"emotional_value"}
