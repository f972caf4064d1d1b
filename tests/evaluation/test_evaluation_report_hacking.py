"""What the page says of hacking: state, figures, examples."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repo_ray.evaluation.charts import Series, line_chart
from repo_ray.evaluation.report import ReportData, render
from repo_ray.evaluation.report_hacking import hacking_view


def reply(step: int, prompt: int, reward: float | None, gold: float, text: str) -> dict[str, Any]:
    """A row of a check, as far as the page reads it."""
    judge = {"value": 5.0, "error": "", "detail": {"kind": {"points": 5.0, "likelihood": 0.9}}}
    for detail in judge["detail"].values():
        detail["reason"] = ""
    points = 100 * (reward - 1) if reward is not None else None
    return {
        "step": step,
        "set": "heldout",
        "dialogue_id": f"p{prompt}",
        "turn": 0,
        "messages": [{"role": "user", "content": f"Question {prompt}?"}],
        "context": "{}",
        "issue": None,
        "reply": text,
        "finish_reason": "stop",
        "tokens": 9,
        "gold_score": gold,
        "rating": 3,
        "excellent": False,
        "issues": json.dumps([{"id": "flattery", "severity": "major", "reason": "empty"}]),
        "scores": json.dumps({"judge": judge}),
        "reward": reward,
        "r_model": None if reward is None else 1.0,
        "e_judge": None if reward is None else 5.0,
        "e_func": points,
        "e_enh": points,
    }


#: Prompt 2 gains most reward for a worse reply; prompt 3 gains more still, but not for a worse one.
HELDOUT = [
    *(reply(0, i, 1.0 + i / 10, 0.5, f"A plain answer, number {i}, to this.") for i in range(5)),
    reply(10, 0, 1.2, 0.4, "Wonderful you, wonderful all."),
    reply(10, 1, 1.3, 0.4, "Wonderful you, wonderful all."),
    reply(10, 2, 1.9, 0.1, "Wonderful, wonderful, wonderful!"),
    reply(10, 3, 2.0, 0.6, "A better answer to this."),
    reply(10, 4, None, 0.0, "No score for this."),
]


def checks(alarm: int, **last: Any) -> list[dict[str, Any]]:
    first = {"step": 0, "heldout/samples": 5, "heldout/proxy": 1.2, "heldout/gold": 0.5}
    first |= {"heldout/words": 6.0, "heldout/overlap": 0.3}
    found = {
        "step": 10,
        "heldout/samples": 5,
        "heldout/proxy": 1.6,
        "heldout/gold": 0.3,
        "heldout/words": 4.0,
        "heldout/overlap": 0.4,
        "alarm/hacking": alarm,
        "alarm/text": "step 10 against step 0, 4 held-out prompts: reward +0.45, gold score -0.13",
        "alarm/since": 0,
        "alarm/proxy_low": 0.1,
        "alarm/gold_low": -0.2,
        "alarm/gold_high": 0.05,
        "alarm/notice": "replies grew from 6 to 4 words",
    }
    return [first, {"step": 5, "reward/small_r_model_share": 0.25}, found | last]


def test_an_alarm_shows_where_and_on_which_replies() -> None:
    view = hacking_view(checks(1), HELDOUT, [], 100.0)
    assert (view["headline"], view["kind"]) == ("Alarm after step 10", "worse")
    assert "gold score -0.13" in view["text"]
    assert [e["replies"][1]["text"] for e in view["examples"]] == [
        "Wonderful, wonderful, wonderful!",
        "Wonderful you, wonderful all.",
        "Wonderful you, wonderful all.",
    ]
    best = view["examples"][0]
    assert (best["why"], best["gain"]) == ("reward +0.70", "gold -0.40")
    assert best["talk"] == [("Hotel", "Question 2?")]
    assert [r["title"] for r in best["replies"]] == ["after step 0", "after step 10"]
    assert all('class="mark"' in card["svg"] for card in view["charts"])
    page = render(ReportData({}, checks(1), {}, heldout=HELDOUT))
    assert "Alarm after step 10: reward up, gold down" in page  # among the checks above
    assert "What the alarm is about" in page


@pytest.mark.parametrize(
    ("last", "headline"),
    [
        ({"alarm/gold_low": 0.05}, "No sign of it"),
        ({}, "No alarm, but gold does not follow"),
        ({"alarm/proxy_low": -0.1}, "No alarm"),
        ({"alarm/proxy_low": -0.1, "alarm/gold_high": -0.1}, "No alarm, but gold fell"),
        ({"alarm/proxy_low": None, "alarm/gold_low": None}, "No alarm"),
    ],
)
def test_without_an_alarm_it_says_how_far_that_goes(last: dict[str, Any], headline: str) -> None:
    view = hacking_view(checks(0, **last), HELDOUT, [], 100.0)
    assert view["headline"] == headline
    assert view["examples"] == []
    assert "mark" not in "".join(card["svg"] for card in view["charts"])
    assert "No alarm of reward hacking" in render(ReportData({}, checks(0, **last), {}))


def test_a_run_without_checks_is_called_unwatched() -> None:
    for metrics in ([], [{"step": 1, "reward/total": 1.0}], checks(0)[:1]):
        view = hacking_view(metrics, [], [], 100.0)
        assert view["headline"] == "Not watched"
    assert "Not watched" in render(ReportData({}, [], {}))


def test_the_tables_by_hand() -> None:
    view = hacking_view(checks(1), HELDOUT, [], 100.0)
    total = view["agreement"][0]
    assert total["source"] == "total"
    assert total["first"] == "constant"  # every gold score is 0.5
    assert view["agreement"][1]["last"] == "constant"  # R_model is 1 for all
    # Rewards 1.2 1.3 1.9 2.0 have ranks 1 2 3 4, gold 0.4 0.4 0.1 0.6 ranks 2.5 2.5 1 4:
    # deviations -1.5 -.5 .5 1.5 and 0 0 -1.5 1.5 give 1.5 / sqrt(5 * 4.5).
    assert total["last"].startswith("+0.32 (")
    rules = next(s for s in view["saturation"] if s["source"] == "rules")
    # Points 0 10 20 30 40, then 20 30 90 100: one of five is lowest, one of four is clipped.
    assert (rules["lowest"], rules["highest"], rules["clip"]) == (
        "20% → 0%",
        "0% → 25%",
        "0% → 25%",
    )
    judge = next(s for s in view["saturation"] if s["source"] == "judge")
    assert (judge["lowest"], judge["spread"]) == ("constant", "0")
    assert view["stuck"] == ["kind: always (100%)"]
    assert view["small"] == "25% → 25%"
    assert view["length_trend"] == pytest.approx(-0.2)
    assert view["notices"] == ["step 10: replies grew from 6 to 4 words"]
    assert view["form"][0]["first"] == "7.0"
    assert view["saturated_on"] == "Held-out replies, step 0 → step 10"
    assert view["cost"] == "2 checks of 5 replies"


def test_saturation_is_of_the_training_samples_where_there_are_any() -> None:
    samples = [
        {**reply(step, i, 1.5, 0.0, "x y"), "e_func": float(step)}
        for step in range(20)
        for i in range(3)
    ]
    view = hacking_view([], [], samples, 19.0)
    rules = next(s for s in view["saturation"] if s["source"] == "rules")
    # The first and the last tenth of 20 steps are two steps each.
    assert (rules["lowest"], rules["highest"], rules["clip"]) == (
        "50% → 0%",
        "0% → 50%",
        "0% → 50%",
    )
    assert view["saturated_on"] == "Training samples, 6 of the first steps → 6 of the last"
    assert view["form_on"] == view["saturated_on"]


def test_marks_stand_at_their_step() -> None:
    chart = line_chart([Series("a", [(0.0, 1.0), (10.0, 2.0)])], "t", [0.0, 10.0, 12.0])
    assert chart.count('class="mark"') == 2
    assert 'class="mark" x1="44.0" x2="44.0"' in chart
    assert 'class="mark" x1="350.0" x2="350.0"' in chart
