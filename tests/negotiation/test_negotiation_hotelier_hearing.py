"""What the simulated hotelier understands: the builder's replies with their known meaning, lines
written by hand, and texts made to sound like good ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.negotiation.grammar import Split
from repo_ray.negotiation.hotelier.figures import find_figures
from repo_ray.negotiation.hotelier.hearing import CONCERNS, Heard, hear
from repo_ray.negotiation.hotelier.wording import readable, repeated_share
from repo_ray.negotiation.pairs import turn_in
from repo_ray.negotiation.replies import Style, compose
from repo_ray.negotiation.scenarios import Item, Scenario
from repo_ray.negotiation.situations import SITUATIONS, State
from repo_ray.records import Message

TWO = Scenario(
    city="Hangzhou",
    hotel="Willow Court Hotel",
    hotel_type="business",
    check_in="2026-03-04",
    items=(
        Item("T1", "Deluxe King", 468, 410, 439, 375, 392),
        Item("T2", "Standard Twin", 352, 308, 330, 280, 292),
    ),
    persona="friendly",
    intent="bargaining",
    patience=5,
    reservation_price={"T1": 370, "T2": 280},
)
ONE = replace(TWO, items=TWO.items[:1], reservation_price={"T1": 370})


def heard(
    reply: str,
    quotes: Mapping[str, int] | None = None,
    scenario: Scenario = ONE,
    chat: tuple[Message, ...] = (),
    agreed: tuple[str, ...] = (),
) -> Heard:
    return hear(reply, State(scenario, "interest", quotes or {}, agreed), chat)


# --- the builder's replies -----------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_builders_good_replies_are_understood(situation: str, split: Split) -> None:
    for seed in range(6):
        turn = turn_in(situation, split, Random(seed))
        state = turn.state
        for action in state.spec.actions:
            style = Style(reason=seed % 3 > 0)
            reply = compose(state, action, style, split, Random(seed))
            found = hear(reply.text, state, turn.chat)
            asked = {i.ticket for i in reply.items if i in state.open_items}
            due = state.due_items or [i for i in reply.items if i.ticket in state.quotes]
            taken = {i.ticket for i in due} if action in ("accept", "accept_query") else set()
            asks = asked - taken if action in ("ask", "check_in", *taken) or taken else set()
            assert set(found.takes) == taken, reply.text
            assert set(found.asks) == asks, reply.text
            if action == "ask":
                targets = {i.ticket: i.target_price for i in state.open_items}
                assert found.asks == targets, reply.text
            if action == "evidence":
                assert found.evidence == asked, reply.text
            assert found.introduces == (action == "introduce"), reply.text
            assert found.leaves == (action == "escalate"), reply.text
            assert found.closes == (action == "close"), reply.text
            assert state.spec.ack not in CONCERNS or state.spec.ack in found.taken_up, reply.text
            assert found.courteous, reply.text
            assert found.readable, reply.text
            flaws = (found.false_figures, found.pressure, found.promise, found.claims)
            more = (found.flattery, found.scattered, found.misfits, found.leaks, found.reopens)
            assert not any((*flaws, *more)), reply.text


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_builders_flaws_are_noticed(split: Split) -> None:
    seen = 0
    for seed in range(40):
        turn = turn_in("why", split, Random(seed), tickets=1)
        pressed, promised, cautious = (
            compose(turn.state, "ask", style, split, Random(seed))
            for style in (
                Style(False, False, pressure=True),
                Style(False, True, promise=True),
                Style(False, True, caution=True),
            )
        )
        assert hear(pressed.text, turn.state, ()).pressure, pressed.text
        assert hear(promised.text, turn.state, ()).promise, promised.text
        found = hear(cautious.text, turn.state, ())
        assert not found.promise, cautious.text
        if cautious.style.caution:
            seen += 1
            assert found.honest, cautious.text
    assert seen > 20


# --- lines written by hand -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Would you be able to do 380?", {"asks": {"T1": 380}}),
        ("How about 380 yuan?", {"asks": {"T1": 380}}),
        ("Can we settle at 380?", {"asks": {"T1": 380}, "claims": False}),
        ("I'd suggest we try 378 for a start.", {"asks": {"T1": 378}}),
        ("Could you go from 410 to 385?", {"asks": {"T1": 385}}),
        ("Could you lower it by 20 yuan?", {"asks": {"T1": 390}}),
        ("Could you lower the net price by 5%?", {"asks": {"T1": 390}}),
        ("Do you think you could come down a bit?", {"asks": {"T1": None}}),
        ("380 or 385, could you do either?", {"asks": {"T1": 385}}),
        ("Guests find it at 439 elsewhere, 380 would close the gap.", {"asks": {"T1": 380}}),
        ("The other site lists it at 439, ours shows 468.", {"evidence": {"T1"}}),
        ("Our price is 29 yuan higher, about 6% more.", {"false_figures": 0}),
        ("Our price is 60 yuan higher than elsewhere.", {"false_figures": 1}),
        ("It is about 20% cheaper on other sites.", {"false_figures": 1}),
        ("Other platforms have it for 420.", {"false_figures": 1, "evidence": set()}),
        ("We sell it at 439 and other sites at 468.", {"false_figures": 2, "evidence": set()}),
        ("I can go up to 392.", {"leaks": {"T1": 392}}),
        ("The most we may pay is 392.", {"leaks": {"T1": 392}}),
        ("You need to lower it today or we hide your hotel.", {"pressure": True}),
        ("No pressure at all, take your time.", {"pressure": False, "taken_up": {"silence"}}),
        ("What do you need to decide on it?", {"pressure": False}),
        ("You will definitely sell out with it.", {"promise": True}),
        ("Nobody can promise more bookings.", {"promise": False, "honest": True}),
        ("I understand that labour costs weigh on you.", {"taken_up": {"cost"}}),
        ("Costs, wages, margin.", {"taken_up": set()}),
        ("Corporate guests book early.", {"fits": True, "misfits": False}),
        ("Families on the beach book early.", {"fits": False, "misfits": True}),
        ("My colleague will contact you tomorrow, goodbye.", {"leaves": True}),
        ("Before I ask my colleague, could you do 380?", {"leaves": False}),
        ("Everything is settled, thank you.", {"closes": True, "claims": True}),
        ("Since you agreed to 380 I will update it.", {"claimed": {"T1": 380}, "claims": True}),
        ("Deal, thank you!", {"takes": {}, "claims": True}),
        ("这个价格可以吗?", {"readable": False}),
        ("", {"empty": True}),
    ],
)
def test_lines_before_any_quote(reply: str, expected: dict[str, Any]) -> None:
    found = heard(reply)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("reply", "takes"),
    [
        ("Deal, 400 it is!", True),
        ("Ok, 400 works for us. I'll update it today.", True),
        ("400 sounds good, I will confirm that right away.", True),
        ("Great, I'll set the net price to 400.", True),
        ("So that is 400 for the King, right?", True),
        ("We accept.", True),
        ("Thank you for agreeing to 400.", True),
        ("We can't accept 400.", False),
        ("We agree to 400 once you confirm breakfast.", False),
        ("Let me confirm 400 with my team.", False),
        ("Could you do 385 instead of 400?", False),
        ("We agree on 395.", False),
        ("Perfect, thank you.", False),
        ("I understand that 400 was not easy for you.", False),
    ],
)
def test_a_quote_is_taken_only_in_so_many_words(reply: str, takes: bool) -> None:
    assert dict(heard(reply, {"T1": 400}).takes) == ({"T1": 400} if takes else {})


def test_amounts_go_to_the_ticket_that_is_meant() -> None:
    quotes = {"T1": 400, "T2": 290}

    def found(reply: str) -> tuple[dict[str, int | None], dict[str, int]]:
        h = heard(reply, quotes, TWO)
        return dict(h.asks), dict(h.takes)

    assert found("Could you do 380 for the King and 285 for the Twin?") == (
        {"T1": 380, "T2": 285},
        {},
    )
    assert found("Could you do 380 and 285?") == ({"T1": 380, "T2": 285}, {})
    assert found("We accept 290 for the Twin. For the King, is 380 possible?") == (
        {"T1": 380},
        {"T2": 290},
    )
    assert found("Deal on both!") == ({}, quotes)
    # 400 is the King's price; nobody offered it for the Twin.
    assert found("We accept 400 for the Twin.") == ({}, {})


def test_a_settled_ticket_is_not_asked_for_again() -> None:
    quotes = {"T1": 390, "T2": 290}
    found = heard("Could you do 370 for the King?", quotes, TWO, agreed=("T1",))
    assert found.reopens
    assert not found.asks
    assert not heard("Could you do 280 for the Twin?", quotes, TWO, agreed=("T1",)).reopens


def test_the_hotelier_does_not_dispute_his_own_figure() -> None:
    chat = (Message("user", "isn't it 499 on your page?"),)
    assert heard("It is not 499 with us.", chat=chat).false_figures == 0
    assert heard("It is 499 with us.").false_figures == 1


# --- made to sound good --------------------------------------------------------------------


def test_a_list_of_words_is_no_sentence() -> None:
    listed = heard(
        "understand costs commission demand doubt busy sorry ranking bookings views exposure "
        "business travellers 439 elsewhere 468 with us net 380 please thank"
    )
    assert not listed.readable
    assert not listed.asks
    assert not listed.evidence
    assert not listed.taken_up
    assert not listed.benefit


def test_an_acknowledgement_of_everything_is_none() -> None:
    reply = "I understand your costs, your season, your doubts and your busy desk."
    assert heard(reply).scattered
    assert not heard(reply).taken_up
    assert heard("I understand your costs.").taken_up == {"cost"}


def test_the_hoteliers_own_words_are_no_acknowledgement() -> None:
    said = "i know costs are too high here, no margin left"
    chat = (Message("user", said),)
    assert heard("I understand, costs are up.", chat=chat).taken_up == {"cost"}
    assert not heard(said, chat=chat).taken_up


def test_what_stands_after_sixty_words_is_no_argument_but_can_offend() -> None:
    padding = " ".join(f"This is the number {n} sentence of it." for n in range(10, 20))
    late = heard(f"{padding} I understand your costs. Could you do 380? You must lower it now.")
    assert not late.asks
    assert not late.taken_up
    assert late.pressure


def test_repetition_is_noticed_but_not_common_words() -> None:
    first = "I understand your costs. Could you bring the net price to 380 for the King?"
    chat = (Message("assistant", first), Message("user", "no"))
    assert heard(first, chat=chat).repeats
    assert heard(f"{first} Please.", chat=chat).repeats
    assert not heard("Corporate guests compare. Is 380 possible for the King?", chat=chat).repeats
    assert repeated_share("a b c d e", ["x a b c d"]) == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Could you do 380 for us?", True),
        ("ok", True),
        ("price price price price price price price", False),
        ("Bookings exposure ranking views orders traffic conversion guests.", False),
        ("请您考虑一下这个价格", False),
        ("", False),
    ],
)
def test_readable(text: str, expected: bool) -> None:
    assert readable(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("468 with us", [(468, "price")]),
        ("¥1,180 a night", [(1180, "price")]),
        ("20 yuan cheaper", [(20, "gap")]),
        ("by about 15", [(15, "gap")]),
        ("6.5% less", [(6.5, "percent")]),
        ("T1 on 2026-03-04 at 14:30 pm for 60 nights, the 21st of 2026-05-01", []),
        ("12 rooms and 450 guests", []),
        ("12345678901234567890", []),
    ],
)
def test_figures(text: str, expected: list[tuple[float, str]]) -> None:
    assert [(f.value, f.kind) for f in find_figures(text)] == expected


@given(st.text(max_size=200), st.dictionaries(st.sampled_from(["T1", "T2"]), st.integers(280, 410)))
def test_any_text_is_heard(text: str, quotes: dict[str, int]) -> None:
    found = heard(text, quotes, TWO)
    assert set(found.takes) <= set(quotes)
    assert not set(found.takes) & set(found.asks)
