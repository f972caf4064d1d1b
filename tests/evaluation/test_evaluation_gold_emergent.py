"""The three emergent skills: shown, not shown, and without occasion."""

from __future__ import annotations

from typing import Any

import pytest
from gold_cases import KING, SYSTEM

from repo_ray.evaluation.gold import Emergent, judge_reply
from repo_ray.records import Message


def emergent(
    hotelier: str, reply: str, item: dict[str, Any] | None = None, **more: Any
) -> Emergent:
    context = {
        "hotel": "Beachside Lodge",
        "hotel_type": "business",
        "stage": "handle_objection",
        "items": [KING | (item or {})],
        "quotes": {},
        "agreed": [],
    } | more
    talk = (
        Message("system", SYSTEM),
        Message("assistant", "Could you do 380 net?"),
        Message("user", hotelier),
    )
    return judge_reply(talk, context, {}, reply).emergent


COSTS = "No. Wages and electricity went up again."
ASK = " Guests see 439 elsewhere and 468 here. Could you do 380 net?"


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("I understand, higher wages are hard to carry." + ASK, True),
        ("Your electricity has become expensive, I know that." + ASK, True),
        ("I understand completely, thank you for your openness." + ASK, False),
        ("Wages are one thing, prices are another." + ASK, False),
        ("I understand, a full house at weekends is a good sign." + ASK, False),
        ("I understand that wages went up. You must do 380 net or we will delist you.", False),
        ("No. Wages and electricity went up again. I understand.", False),
    ],
)
def test_emotional_value_acknowledges_and_names_the_cause(reply: str, shown: bool) -> None:
    assert emergent(COSTS, reply).emotional_value is shown


@pytest.mark.parametrize("hotelier", ["...", "And what price do you have in mind?"])
def test_without_a_concern_there_is_no_occasion_for_emotional_value(hotelier: str) -> None:
    assert emergent(hotelier, "I understand." + ASK).emotional_value is None


@pytest.mark.parametrize(
    ("kind", "reply", "shown"),
    [
        ("business", "Company bookers compare before they book and find 439 elsewhere.", True),
        ("resort", "Families on a beach holiday compare before they book.", True),
        ("business", "Guests compare before they book and find 439 elsewhere.", False),
        ("business", "Corporate, meetings, office.", False),
        # The name of the hotel says nothing about its guests.
        ("resort", "Guests of Beachside Lodge compare before they book.", False),
        ("castle", "Guests compare before they book.", None),
    ],
)
def test_a_pitch_fits_the_hotel(kind: str, reply: str, shown: bool | None) -> None:
    said = emergent(COSTS, f"I see, wages rose. {reply} Could you do 380 net?", hotel_type=kind)
    assert said.hotel_type_fit is shown


ARGUED = "I see. An empty night earns nothing, and a lower price brings more bookings. "
BARE = "I see. "


@pytest.mark.parametrize(
    ("item", "hotelier", "reply", "shown"),
    [
        ({"competitor_price": None}, COSTS, ARGUED + "Could you do 380 net?", True),
        ({"competitor_price": None}, COSTS, BARE + "Could you do 380 net?", False),
        ({"competitor_price": None}, COSTS, ARGUED + "Thank you.", False),
        # 455 is 2.8% under 468: hardly lower.
        ({"competitor_price": 455}, COSTS, ARGUED + "Could you do 380 net?", True),
        # 439 is 6.2% under 468: evidence enough.
        ({}, COSTS, ARGUED + "Could you do 380 net?", None),
        ({}, "Your data is wrong, I never gave that.", ARGUED + "Could you do 380 net?", True),
        # A made-up price elsewhere is no argument.
        (
            {"competitor_price": None},
            COSTS,
            ARGUED + "Others sell it at 420. Could you do 380 net?",
            False,
        ),
    ],
)
def test_persuasion_with_little_evidence(
    item: dict[str, Any], hotelier: str, reply: str, shown: bool | None
) -> None:
    assert emergent(hotelier, reply, item).limited_information is shown


def test_nothing_to_argue_about_gives_no_occasion() -> None:
    said = emergent("Fine, 378.", "Thank you, 378 net works for us.", quotes={"T1": 378})
    assert said == Emergent(None, None, None)
    assert emergent(COSTS, "I understand.", stage="close", agreed=["T1"]).hotel_type_fit is None
