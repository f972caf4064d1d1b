"""What a reply does to trust, patience, goodwill and offers, computed by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest
from test_negotiation_hotelier_hearing import ONE, TWO

from repo_ray.negotiation.grammar import bank
from repo_ray.negotiation.hotelier.hearing import hear
from repo_ray.negotiation.hotelier.mind import (
    COSTS,
    EARNS,
    TEMPERS,
    TURN_CAP,
    Mind,
    bargain,
    first_mind,
    weigh,
)
from repo_ray.negotiation.hotelier.moves import Move, View, last_word_of, situation_of
from repo_ray.negotiation.hotelier.rules import _GRAVE, _REMARKED, RuleHotelier
from repo_ray.negotiation.scenarios import INTENTS, PERSONAS, Scenario
from repo_ray.negotiation.situations import OBJECTIONS, SITUATIONS, State
from repo_ray.records import Message

CALM = Mind(
    trust=0.5,
    patience=5,
    first_patience=5,
    goodwill=0.0,
    agenda=(),
    decides=True,
    floors=dict(ONE.reservation_price),
    introduced=True,
)
HONEST = "The Deluxe King is 468 with us and 439 elsewhere. Could you do 380 for the King?"


def state(
    situation: str = "interest", scenario: Scenario = ONE, quotes: dict[str, int] | None = None
) -> State:
    return State(scenario, situation, quotes or {})


def after(reply: str, mind: Mind = CALM, now: State | None = None, void: bool = False) -> Mind:
    now = now or state()
    return weigh(mind, hear(reply, now, ()), now, void)


def test_every_persona_and_intent_has_a_temper_and_its_concerns_are_objections() -> None:
    assert set(TEMPERS) == set(PERSONAS)
    for temper in TEMPERS.values():
        assert set(temper.concerns) <= {*OBJECTIONS, "foreign"}
        assert set(temper.weights) <= {*EARNS, *COSTS}
    for persona in PERSONAS:
        for intent in INTENTS:
            scenario = replace(ONE, persona=persona, intent=intent)
            minds = [first_mind(scenario, "greet", Random(n)) for n in range(40)]
            assert all(m.decides for m in minds) == (intent != "unreachable")
            assert max(len(m.agenda) for m in minds) <= 4
            assert minds[0] == first_mind(scenario, "greet", Random(0))


def test_goodwill_is_the_sum_of_the_arguments() -> None:
    """Friendly: courtesy counts double. Evidence 0.36 and ask 0.2 pass the cap of 0.5."""
    assert after("The Deluxe King is 439 elsewhere.").goodwill == pytest.approx(0.36)
    assert after("Could you do 380?").goodwill == pytest.approx(0.2)
    assert after("Thank you. Could you do 380?").goodwill == pytest.approx(0.2 + 2 * 0.06)
    assert after(HONEST).goodwill == TURN_CAP == 0.5
    assert after(HONEST).trust == pytest.approx(0.58)


def test_the_same_kind_of_argument_is_worth_half_each_time() -> None:
    once = after("The Deluxe King is 439 elsewhere.")
    twice = after("Other sites show the King at 439.", once)
    assert twice.goodwill == pytest.approx(0.36 + 0.18)
    assert after("Rivals list it at 439.", twice).goodwill == pytest.approx(0.36 + 0.18 + 0.09)


def test_evidence_for_one_of_two_tickets_is_worth_half() -> None:
    mind = after("The Deluxe King is 439 elsewhere.", now=state(scenario=TWO))
    assert mind.goodwill == pytest.approx(0.18)


def test_a_pitch_of_everything_earns_no_more_than_two_honest_points() -> None:
    everything = (
        "I understand your costs. Corporate guests compare, and a better price often brings more "
        "bookings. The Deluxe King is 468 with us and 439 elsewhere, nobody can promise more. "
        "Could you do 380?"
    )
    worried = replace(CALM, concern="cost")
    assert after(everything, worried).goodwill < after(HONEST).goodwill
    short = after("I understand your costs. It is 439 elsewhere, could you do 380?", worried)
    assert after(everything, worried).goodwill < short.goodwill


LAPSES = [
    ("empty", ""),
    ("unreadable", "price price price price price price"),
    ("pressure", "You must lower it now."),
    ("false", "The Deluxe King is 420 elsewhere."),
    ("promise", "I guarantee that you will be full."),
    ("claimed", "Thank you for agreeing to 380."),
    ("lowball", "Could you do 250?"),
    ("scattered", "I understand your costs, your season, your doubts and your busy desk."),
    ("flattery", "What a wonderful and amazing hotel."),
    ("misfit", "Families on the beach book early."),
    ("rambling", "It is a long and winding story of this and that. " * 8),
]


@pytest.mark.parametrize(("lapse", "reply"), LAPSES)
def test_each_lapse_costs_its_price(lapse: str, reply: str) -> None:
    mind = after(reply)
    trust, patience = COSTS[lapse]
    assert lapse in mind.lapses
    lost = [COSTS[name] for name in mind.lapses]
    assert mind.trust == pytest.approx(CALM.trust - sum(t for t, _ in lost))
    assert mind.patience == CALM.patience - sum(p for _, p in lost)
    assert trust + patience > 0
    # Whatever good it holds besides, it earns less than without the lapse.
    assert after(f"{HONEST} {reply}").goodwill <= after(HONEST).goodwill


@pytest.mark.parametrize(("lapse", "reply"), LAPSES)
def test_a_lapse_beside_an_honest_ask_moves_no_price_further(lapse: str, reply: str) -> None:
    def offered(text: str) -> int:
        now = state()
        found = hear(text, now, ())
        return bargain(weigh(CALM, found, now, False), found, now)[1].get("T1", 410)

    assert offered(f"{reply} {HONEST}") >= offered(HONEST)
    assert offered(HONEST) < 410


def test_void_prices_reopened_tickets_and_repetition_cost() -> None:
    assert after("Could you do 400?", void=True).lapses == ("void",)
    settled = replace(state(scenario=TWO, quotes={"T1": 380}), agreed=("T1",))
    assert after("Could you do 370 for the King?", now=settled).lapses == ("reopened",)
    chat = (Message("assistant", HONEST), Message("user", "no"))
    again = weigh(CALM, hear(HONEST, state(), chat), state(), False)
    assert again.lapses == ("repeated",)
    assert again.goodwill == 0
    assert again.patience == 4


def test_a_suspicious_hotelier_minds_false_figures_more() -> None:
    suspicious = state(scenario=replace(ONE, persona="suspicious"))
    mind = after("The Deluxe King is 420 elsewhere.", now=suspicious)
    assert mind.trust == pytest.approx(0.5 - 1.6 * 0.2)
    assert mind.patience == 5 - 2  # 1.6, rounded


@pytest.mark.parametrize(
    ("concern", "reply", "answered"),
    [
        ("cost", "I understand that costs weigh on you.", True),
        ("cost", "I understand your busy desk.", False),
        ("cost", "Costs, costs.", False),
        ("guarantee", "Nobody can promise bookings, to be honest.", True),
        ("guarantee", "I guarantee that you will be full.", False),
        ("doubt", "The other site shows the King at 439.", True),
        ("why", "Corporate guests compare before they book.", True),
        ("net_confused", "I mean what we pay you: is 380 possible?", True),
        ("silence", "I understand. What do you think?", True),
        ("silence", "Could you do 380?", False),
        ("squeeze", "I am sorry that we annoy you.", True),
        ("squeeze", "The King is 439 elsewhere.", False),
    ],
)
def test_a_concern_is_answered_in_its_own_way(concern: str, reply: str, answered: bool) -> None:
    mind = after(reply, replace(CALM, concern=concern))
    assert mind.concern == (None if answered else concern)
    assert ("ignored" in mind.lapses) is not answered


def test_a_disclosed_limit_becomes_the_lowest_price() -> None:
    mind = after("I can go up to 392.")
    assert mind.floors == {"T1": 392}
    assert after("I can go up to 360.").floors == {"T1": 370}
    quoted = state(quotes={"T1": 385})
    assert after("I can go up to 392.", now=quoted).floors["T1"] == 385


# --- offers --------------------------------------------------------------------------------


def offers(ask: str, mind: Mind, quotes: dict[str, int] | None = None) -> dict[str, int]:
    now = state(quotes=quotes)
    return bargain(mind, hear(ask, now, ()), now)[1]


def test_an_offer_by_hand() -> None:
    """Goodwill 0.8, trust 0.5: reach 0.8 * 0.9 = 0.72; pace 0.75: 0.54 of the way from 410 to 370,
    so 370 + 40 * 0.46 = 388.4, rounded up."""
    mind = replace(CALM, goodwill=0.8, earned=0.2)
    assert offers("Could you do 375?", mind) == {"T1": 389}
    # Without a number half as far: 370 + 40 * 0.73 = 399.2.
    assert offers("Could you lower the price?", mind) == {"T1": 400}
    # 0.86 of 370 is 318.2, 0.94 is 347.8.
    assert offers("Could you do 340?", mind) == {"T1": 370 + 28}  # 0.6 * 0.54 = 0.324
    assert offers("Could you do 318?", mind) == {"T1": 410}
    assert offers("Could you do 395?", mind) == {"T1": 395}
    assert offers("Thank you.", mind) == {}


def test_no_offer_is_taken_back_and_none_is_under_the_floor() -> None:
    mind = replace(CALM, goodwill=0.1, earned=0.1)
    assert offers("Could you do 375?", mind, {"T1": 380}) == {"T1": 380}
    full = replace(CALM, goodwill=9.0, earned=0.1)
    assert offers("Could you do 360?", full) == {"T1": 380}  # 0.75 of the way at once
    almost = replace(full, moved={"T1": 0.9})
    assert offers("Could you do 360?", almost) == {"T1": 370}


def test_nothing_moves_without_a_reason_or_after_patience_is_gone() -> None:
    assert offers("Could you do 375?", replace(CALM, goodwill=1.0, earned=0.0)) == {"T1": 410}
    spent = replace(CALM, goodwill=1.0, earned=0.2, patience=0)
    assert offers("Could you do 375?", spent) == {"T1": 410}


@pytest.mark.parametrize(
    ("quotes", "asks", "expected"),
    [
        ({"T1": 400, "T2": 290}, {}, "quote_high"),
        ({"T1": 390, "T2": 290}, {}, "quote_middle"),
        ({"T1": 400, "T2": 280}, {}, "quote_low"),
        ({"T1": 390, "T2": 290}, {"T1": 390, "T2": 290}, "agree"),
        ({"T1": 390, "T2": 290}, {"T1": 385, "T2": 290}, "quote_middle"),
        ({"T1": 390}, {"T1": 390}, "quote_middle"),
        ({"T1": 400, "T2": 290}, {"T1": 400, "T2": 290}, "quote_high"),
    ],
)
def test_situation_after_offers(
    quotes: dict[str, int], asks: dict[str, int | None], expected: str
) -> None:
    assert situation_of(quotes, asks, state(scenario=TWO)) == expected


def test_a_last_word_within_the_mandate_is_to_be_accepted() -> None:
    assert last_word_of({"T1": 390, "T2": 290}, state(scenario=TWO)) == "hold"
    assert last_word_of({"T1": 375, "T2": 280}, state(scenario=TWO)) == "quote_low"
    assert last_word_of({"T1": 400, "T2": 290}, state(scenario=TWO)) == "quote_high"


# --- the hotelier by rule ------------------------------------------------------------------


def answer(reply: str, mind: Mind = CALM, now: State | None = None, seed: int = 0) -> Move:
    now = now or state()
    found = hear(reply, now, ())
    chat = (Message("user", "so?"), Message("assistant", reply))
    view = View(now, weigh(mind, found, now, False), found, chat, "train", Random(seed))
    return asyncio.run(RuleHotelier().answer(view))


def test_every_remark_has_its_phrases() -> None:
    kinds = {remark for remark, _ in _GRAVE.values()} | set(_REMARKED.values())
    assert kinds | {"unheard", "rest", "so", "still", "warm"} == set(bank("remarks"))
    for splits in bank("remarks").values():
        assert not set(splits["train"]) & set(splits["heldout"])
        assert not any(c.isdigit() for s in splits.values() for f in s.values() for c in str(f))


@pytest.mark.parametrize("lapse", _GRAVE)
def test_after_a_grave_lapse_no_price_is_offered(lapse: str) -> None:
    reply = f"{HONEST} {dict(LAPSES)[lapse]}" if lapse not in ("empty", "unreadable") else ""
    move = answer(reply or dict(LAPSES)[lapse])
    assert not move.offers
    expected = _GRAVE[lapse][1]
    assert move.situation == (expected or "interest")
    assert move.mind.concern == expected


def test_a_concern_that_was_passed_over_is_said_once_more_and_then_dropped() -> None:
    worried = replace(CALM, concern="cost")
    again = answer("Is 380 possible for the King?", worried)
    assert again.situation == "cost"
    assert not again.offers
    third = answer("How about 380?", again.mind, state("cost"))
    assert third.offers
    assert third.mind.concern is None


def test_one_who_cannot_decide_says_so_when_asked() -> None:
    assert answer(HONEST, replace(CALM, decides=False)).situation == "absent"


def test_patience_and_trust_that_are_gone_end_the_dialogue() -> None:
    for mind in (replace(CALM, patience=1), replace(CALM, trust=0.2)):
        move = answer("You must lower it now.", mind)
        assert move.leaves
        assert move.situation == "hostile"
    assert answer("Nice weather.", replace(CALM, patience=1)).leaves
    assert not answer("Nice weather.", replace(CALM, patience=2)).leaves


def test_every_situation_is_known() -> None:
    seen = set()
    for seed in range(40):
        for reply in (
            "",
            HONEST,
            "Nice weather.",
            "You must lower it now.",
            "It is 439 elsewhere.",
        ):
            for mind in (CALM, replace(CALM, agenda=("cost", "silence", "why"))):
                seen.add(answer(reply, mind, seed=seed).situation)
    assert seen <= set(SITUATIONS)
    assert {"cost", "interest", "squeeze", "quote_high"} <= seen
