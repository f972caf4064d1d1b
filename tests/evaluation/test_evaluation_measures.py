"""Measures against values worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repo_ray.evaluation.measures import (
    compute_differences,
    compute_measures,
    distinct_n,
)


def row(dialogue: str, turn: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "set": "online",
        "dialogue_id": dialogue,
        "turn": turn,
        "issue": None,
        "reply": "could you do 380",
        "finish_reason": "stop",
        "tokens": 5,
        "gold_score": 0.5,
        "rating": 3,
        "excellent": False,
        "fluency": True,
        "workflow_compliance": True,
        "negotiation_effectiveness": False,
        "scope_understanding": True,
        "issues": "[]",
        "scores": None,
        "reward": None,
        **more,
    }


def issue(name: str, severity: str) -> str:
    return json.dumps([{"id": name, "severity": severity, "reason": ""}])


def bad(dialogue: str, issues: str = "[]", turn: int = 0) -> dict[str, Any]:
    known = "consent_from_silence"
    return row(dialogue, turn, set="badcases", issue=known, issues=issues)


def test_rating_is_a_mean_of_dialogue_means() -> None:
    rows = [row("a", 0, rating=5), row("a", 1, rating=3), row("b", 0, rating=1)]
    measure = compute_measures(rows)["dialogue_rating"]
    assert measure.value == pytest.approx((4 + 1) / 2)
    assert measure.n == 2
    assert measure.low is not None
    assert measure.high is not None
    assert 1 <= measure.low <= measure.value <= measure.high <= 4


def test_one_excellent_reply_is_enough_for_its_dialogue() -> None:
    rows = [row("a", 0), row("a", 1, excellent=True), row("b", 0), row("b", 1)]
    assert compute_measures(rows)["excellent_dialogues"].value == 0.5


def test_bad_case_outcomes() -> None:
    rows = [
        bad("clean"),
        bad("minor left", issue("evidence_missing", "minor")),
        bad("major left", issue("pressure", "major")),
        bad("other severe left", issue("internal_limit_disclosed", "severe")),
        bad("not fixed", issue("assumed_consent", "severe")),
        bad("fixed once only", "[]", 0),
        bad("fixed once only", issue("assumed_consent", "severe"), 1),
    ]
    measures = compute_measures(rows)
    assert measures["fix_rate"].value == pytest.approx(4 / 6)
    assert measures["clean_fix"].value == pytest.approx(2 / 6)
    assert measures["fixed_with_major"].value == pytest.approx(2 / 6)
    assert measures["severe_unresolved"].value == pytest.approx(2 / 6)
    assert "dialogue_rating" not in measures, "there is no online dialogue"


def test_a_known_failure_that_is_not_severe_is_unresolved_but_not_severely() -> None:
    rows = [{**bad("a", issue("pressure", "major")), "issue": "blunt_pressure"}]
    measures = compute_measures(rows)
    assert measures["fix_rate"].value == 0
    assert measures["severe_unresolved"].value == 0


def test_turns_without_an_issue_do_not_decide_a_bad_case() -> None:
    rows = [bad("a"), {**bad("a", issue("assumed_consent", "severe"), 1), "issue": None}]
    assert compute_measures(rows)["clean_fix"].value == 1


def test_skills_and_issues_are_shares_of_replies() -> None:
    rows = [
        row("a", 0, fluency=False, issues=issue("garbled", "major"), finish_reason="length"),
        row("a", 1),
        row("b", 0, issues=issue("too_thin", "minor")),
        row("b", 1),
    ]
    measures = compute_measures(rows)
    assert measures["fluency"].value == 0.75
    assert measures["negotiation_effectiveness"].value == 0
    assert measures["serious_issue_rate"].value == 0.25
    assert measures["truncated_share"].value == 0.25
    assert measures["words"].value == 4


def test_rule_violations_count_only_replies_whose_rules_were_asked() -> None:
    def rules(points: float | None) -> str:
        detail = {} if points is None else {"x": {"points": points, "reason": ""}}
        value = points
        return json.dumps({"rules": {"value": value, "detail": detail, "error": ""}})

    rows = [row("a", 0, scores=rules(-5.0)), row("a", 1, scores=rules(0.0)), row("a", 2)]
    rows.append(row("a", 3, scores=rules(None)))
    assert compute_measures(rows)["rule_violation_rate"].value == 0.5
    assert "rule_violation_rate" not in compute_measures([row("a")])


def test_unanimous_shares_keep_an_honest_interval() -> None:
    rows = [row(f"d{i}") for i in range(30)]
    measure = compute_measures(rows)["excellent_dialogues"]
    assert measure.low == 0
    # P(no success in 30) = 0.025 at this rate.
    assert measure.high is not None
    assert (1 - measure.high) ** 30 == pytest.approx(0.025)


def test_the_interval_covers_the_normal_approximation() -> None:
    rows = [row(f"d{i}", excellent=i % 2 == 0) for i in range(400)]
    measure = compute_measures(rows, resamples=4000)["excellent_dialogues"]
    assert measure.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert measure.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_a_dialogue_is_drawn_whole() -> None:
    """Ten identical turns per dialogue carry no more information than one."""
    one = [row(f"d{i}", gold_score=i / 10) for i in range(10)]
    ten = [row(f"d{i}", t, gold_score=i / 10) for i in range(10) for t in range(10)]
    assert compute_measures(one, seed=3)["gold_score"].low == pytest.approx(
        compute_measures(ten, seed=3)["gold_score"].low
    )


def test_paired_differences_use_the_same_draws() -> None:
    """A constant gain over very unequal dialogues has an interval of no width."""
    before = [row(f"d{i}", gold_score=i / 20) for i in range(10)]
    after = [row(f"d{i}", gold_score=i / 20 + 0.1) for i in range(10)] + [row("only here")]
    gap = compute_differences(after, before)["gold_score"]
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    assert gap.n == 10


def test_same_seed_same_intervals() -> None:
    rows = [row(f"d{i}", gold_score=i / 20) for i in range(10)]
    assert compute_measures(rows, seed=1) == compute_measures(rows, seed=1)
    assert compute_measures(rows, seed=1) != compute_measures(rows, seed=2)


def test_nothing_evaluated_gives_no_measures() -> None:
    assert compute_measures([]) == {}
    assert compute_differences([], []) == {}


def test_distinct_n() -> None:
    assert distinct_n(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert distinct_n(["a"], 2) == 0
