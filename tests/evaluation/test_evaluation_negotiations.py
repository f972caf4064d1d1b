"""Finished negotiations: what is kept of them, and measures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gold_cases import SCENES

from repo_ray.evaluation.evaluate import SKILLS
from repo_ray.evaluation.measures import compare_columns
from repo_ray.evaluation.negotiations import (
    NEGOTIATION_MEASURES,
    judge_negotiations,
    load_negotiations,
    save_negotiations,
)
from repo_ray.records import Prompt

COSTS = next(s for s in SCENES if s.name == "objection_costs")
COUNTER = next(s for s in SCENES if s.name == "counter_above_mandate")
OUTCOME = {
    "agreed": True,
    "walked_away": False,
    "attainable": True,
    "turns": 2,
    "reduction": 0.5,
    "margin": 0.1,
    "satisfaction": 0.7,
    "mandate_violations": 0,
}


@dataclass(frozen=True)
class Turn:
    prompt: Prompt
    hidden: dict[str, Any]
    reply: str
    finish_reason: str = "stop"
    tokens: int = 10


@dataclass(frozen=True)
class Negotiation:
    episode_seed: int
    prompt_id: str
    turns: tuple[Turn, ...]
    outcome: Any = field(default_factory=lambda: OUTCOME)


def turn(scene: Any, reply: str) -> Turn:
    return Turn(Prompt("p", scene.messages, scene.context), scene.hidden, reply)


def negotiation(seed: int = 1, replies: tuple[str, str] | None = None, **outcome: Any) -> Any:
    first, second = replies or (COSTS.good[0], COUNTER.good[0])
    turns = (turn(COSTS, first), turn(COUNTER, second))
    return Negotiation(seed, "p", turns, OUTCOME | outcome)


OVER = "Great, we accept 405 for the Deluxe King. Thank you!"
ALSO_OVER = "I understand wages went up. Could we meet at 402 net for the Deluxe King?"


def test_a_row_has_the_outcome_and_gold_s_verdicts() -> None:
    (row,) = judge_negotiations([negotiation(7)])
    assert (row["episode_seed"], row["prompt_id"], row["dialogue_id"]) == (7, "p", "p/7")
    assert (row["price_reduction"], row["hotel_margin"], row["tokens"]) == (0.5, 0.1, 20)
    assert row["gold_violations"] == row["serious_turns"] == 0
    first, second = json.loads(row["transcript"])
    assert first["hotelier"] == COSTS.turns[-1]
    assert second["reply"] == COUNTER.good[0]
    assert set(first["gold"]["skills"]) == set(SKILLS)
    ratings = [t["gold"]["rating"] for t in (first, second)]
    assert row["gold_rating"] == sum(ratings) / 2 >= 4
    assert row["excellent"] == any(t["gold"]["excellent"] for t in (first, second))


def test_gold_counts_violations_whatever_the_simulator_says() -> None:
    rows = judge_negotiations(
        [
            negotiation(1, (COSTS.good[0], OVER), mandate_violations=0),
            negotiation(2, (ALSO_OVER, OVER), mandate_violations=1),
            negotiation(3, mandate_violations=3),
        ]
    )
    assert [r["gold_violations"] for r in rows] == [1, 2, 0]
    assert [r["mandate_violations"] for r in rows] == [0, 1, 3]


def test_measures_by_hand() -> None:
    rows = judge_negotiations(
        [
            negotiation(1, turns=2, mandate_violations=1),
            negotiation(2, (COSTS.good[0], OVER), reduction=0.1, satisfaction=0.3),
            negotiation(3, agreed=False, walked_away=True, reduction=0.0, margin=None),
            negotiation(4, agreed=False, attainable=False, reduction=None, margin=None),
        ]
    )
    found = compare_columns({"m": [rows]}, "m", NEGOTIATION_MEASURES).measures["m"]
    assert found["agreement_rate"].value == 0.5
    assert found["attainable_agreement_rate"].value == pytest.approx(2 / 3)
    assert found["walked_away"].value == 0.25
    assert found["price_reduction"].value == pytest.approx(0.6 / 3)
    assert found["price_reduction"].n == 3, "where nothing was possible there is no share"
    assert found["hotel_margin"].value == pytest.approx(0.1)
    assert found["satisfaction"].value == pytest.approx((0.7 * 3 + 0.3) / 4)
    assert found["turns"].value == 2
    assert found["mandate_violations"].value == pytest.approx(100 * 1 / 8)
    assert found["gold_violations"].value == pytest.approx(100 * 1 / 8)
    assert found["negotiation_serious"].value == pytest.approx(1 / 8)
    for measure in found.values():
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low <= measure.value <= measure.high


def test_methods_are_compared_on_the_same_episodes() -> None:
    base = judge_negotiations([negotiation(s, agreed=False, reduction=0.1 * s) for s in range(4)])
    repo = judge_negotiations([negotiation(s, reduction=0.1 * s + 0.2) for s in range(5)])
    gap = compare_columns({"base": [base], "repo": [repo]}, "base", NEGOTIATION_MEASURES)
    reduction = gap.differences["repo"]["price_reduction"]
    assert (reduction.value, reduction.low, reduction.high) == pytest.approx((0.2, 0.2, 0.2))
    assert reduction.n == 4


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    rows = judge_negotiations([negotiation(1), negotiation(2, margin=None, attainable=None)])
    path = save_negotiations(tmp_path, "repo", rows)
    assert path.name == "negotiations-repo.parquet"
    assert load_negotiations(tmp_path, "repo") == rows


def test_an_outcome_may_be_a_dataclass() -> None:
    @dataclass
    class Outcome:
        agreed: bool = True
        walked_away: bool = False
        reduction: float = 1
        margin: float | None = None
        satisfaction: float = 0.5
        turns: int = 2
        mandate_violations: int = 0

    (row,) = judge_negotiations([replace(negotiation(), outcome=Outcome())])
    assert (row["price_reduction"], row["attainable"]) == (1.0, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agreed": None}, r"p/1: outcome\['agreed'\]: bool was expected, not None"),
        ({"agreed": 1}, "bool was expected, not 1"),
        ({"turns": True}, "int was expected, not True"),
        ({"turns": 3}, r"outcome\['turns'\]: 2 was expected"),
        ({"reduction": "half"}, r"outcome\['reduction'\]: float was expected, not 'half'"),
    ],
)
def test_a_wrong_outcome_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_negotiations([negotiation(**change)])


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="p/1: at least one turn"):
        judge_negotiations([replace(negotiation(), turns=())])
    with pytest.raises(ValueError, match="p/1: given twice"):
        judge_negotiations([negotiation(1), negotiation(1)])
    with pytest.raises(ValueError, match="a mapping was expected"):
        judge_negotiations([replace(negotiation(), outcome=SimpleNamespace(agreed=True))])


async def test_real_episodes_fit() -> None:
    """The simulated hotelier's outcome and the episode's facts are what is read here."""
    from repo_ray.config.dialogue import HotelierConfig
    from repo_ray.negotiation.episodes import open_episode

    episode = open_episode(3, "heldout", HotelierConfig(), max_turns=4)
    turns = []
    while True:
        prompt, hidden = episode.prompt(), episode.hidden()
        reply = "I understand. Could you lower the net price a little?"
        turns.append(Turn(prompt, hidden, reply))
        if await episode.answer(reply):
            break
    (row,) = judge_negotiations(
        [Negotiation(3, episode.prompt_id, tuple(turns), episode.outcome())]
    )
    assert row["turns"] == len(turns)
    assert row["attainable"] is not None
    assert 0 <= row["satisfaction"] <= 1
