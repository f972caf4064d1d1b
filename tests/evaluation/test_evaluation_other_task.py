"""A task that the gold evaluator does not know: nothing is said in its name, nothing breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repo_ray.comparison.table import Column, comparison_json, markdown
from repo_ray.evaluation.evaluate import GeneratedReply, evaluate_rows, gold_curve
from repo_ray.evaluation.gold import judge_reply, knows_task
from repo_ray.evaluation.hacking import agreement, compare_checks
from repo_ray.evaluation.measures import compute_measures
from repo_ray.evaluation.report import ReportData, render
from repo_ray.pipeline.monitor import check_metrics
from repo_ray.records import Message, Reward, Score

GERMAN = (
    Message("system", "Sie beantworten Fragen zu Erstattungen. Antworten Sie höflich und kurz."),
    Message("user", "Wann bekomme ich das Geld für den Toaster?"),
)
ENGLISH = (Message("user", "When do you refund the toaster?"),)
REPLY = "Gern: Wir erstatten Ihnen 34,50 Euro. Das Geld ist bis zum 21.03.2025 auf Ihrem Konto."
GOLD = {
    *("gold_score", "dialogue_rating", "excellent_dialogues", "serious_issue_rate"),
    *("workflow_compliance", "negotiation_effectiveness", "scope_understanding", "fix_rate"),
}


def rows(
    replies: list[str], rewards: list[float], issue: str | None = None
) -> list[dict[str, Any]]:
    """Judged rows, one dialogue of one turn each."""
    asked = [
        {
            "dialogue_id": f"d{number}",
            "turn": 0,
            "messages": GERMAN,
            "context": json.dumps({"order": "10482", "refund": 34.5}),
            "issue": issue,
        }
        for number in range(len(replies))
    ]
    generated = [
        GeneratedReply(
            text, "stop", 9, (Score("rules", 0.0),), Reward(value, value, 0.0, 0.0, 0.0, 1.0)
        )
        for text, value in zip(replies, rewards, strict=True)
    ]
    return evaluate_rows(asked, generated, "badcases" if issue else "online")


def check(step: int, reward: float) -> list[dict[str, Any]]:
    parts = {"r_model": reward, "e_judge": 0.0, "e_func": 0.0, "e_enh": 0.0, "multiplier": 1.0}
    return [{"step": step, **row, **parts} for row in rows([REPLY] * 9, [reward] * 9)]


@pytest.mark.parametrize(
    ("context", "known"),
    [
        ({}, False),
        ({"refund": 34.5}, False),
        ({"items": [{"name": "Toaster", "price": 34.5}]}, False),
        ({"items": ["Toaster"]}, False),
        ({"items": [{"ticket": "T1", "net_price": 410}]}, True),
        ({"items": [{"room": "King", "mandate": 395}]}, True),
    ],
)
def test_only_prices_between_hotel_and_platform_make_a_negotiation(
    context: dict[str, Any], known: bool
) -> None:
    assert knows_task(context) is known
    assert (judge_reply(GERMAN, context, {}, REPLY).scope == "full") is known


def test_german_is_not_judged_by_english_words() -> None:
    assert judge_reply(GERMAN, {}, {}, REPLY).issues == ()
    assert {i.id for i in judge_reply(ENGLISH, {}, {}, REPLY).issues} >= {"keyword_list"}
    babble = "Wir erstatten gern, wir erstatten gern, wir erstatten gern, wir erstatten gern."
    assert "repetition" in {i.id for i in judge_reply(GERMAN, {}, {}, babble).issues}
    assert judge_reply(GERMAN, {}, {}, "").issues[0].id == "empty"


def test_measures_of_the_gold_evaluator_are_absent_and_others_are_there() -> None:
    for issue in (None, "wrong_number"):
        found = compute_measures(rows([REPLY, "Nein."], [1.0, 0.5], issue))
        assert not GOLD & set(found)
        assert found["reward"].value == pytest.approx(0.75)
        assert found["fluency"].value == 1.0
        assert found["rule_violation_rate"].value == 0.0


def test_no_alarm_and_no_gold_figures_in_a_check() -> None:
    rising = [*check(0, 0.1), *check(4, 0.9)]
    assert compare_checks(rising, 2) is None
    assert agreement(rising, "reward").n == 0
    metrics = check_metrics(check(4, 0.9), 100.0)
    assert metrics["heldout/proxy"] == pytest.approx(0.9)
    assert not [name for name in metrics if "gold" in name]


def test_the_report_says_that_nobody_judged_the_task() -> None:
    columns = {"base": rows([REPLY] * 9, [0.1] * 9), "repo": rows([REPLY] * 9, [0.9] * 9)}
    metrics = [{"step": s, **check_metrics(check(s, r), 100.0)} for s, r in ((0, 0.1), (4, 0.9))]
    page = render(ReportData({}, metrics, columns, heldout=[*check(0, 0.1), *check(4, 0.9)]))
    assert "The reward rose" in page
    assert "Training reward 0.10 for base, 0.90 for REPO: +0.80" in page
    assert "No evaluator apart from the reward" in page
    assert "Not judged" in page
    assert "It learned" not in page
    assert "gold <b>" not in page
    assert "rating None" not in page
    assert "Hotel</span>" not in page


def test_the_gold_curve_leaves_the_samples_out() -> None:
    samples = [{**row, "step": 0, "prompt_id": "p"} for row in rows([REPLY], [1.0])]
    assert gold_curve(samples, {}) == []


def test_a_comparison_shows_what_is_left() -> None:
    columns = [Column("repo", "REPO", [rows([REPLY, REPLY], [0.5, 0.7])])]
    lines = markdown(comparison_json(columns, "repo", 50, 0)).splitlines()
    assert lines[0].startswith("| | Training reward | Replies that break a training rule |")
    assert lines[2].startswith("| REPO | 0.60 [")
