"""Replaying saved samples, and showing one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from repo_ray.config.rewards import EnhancementConfig
from repo_ray.records import (
    TRAJECTORIES_SCHEMA,
    Prompt,
    Score,
    ScoreDetail,
    scores_from_json,
    scores_to_json,
)
from repo_ray.rewards.enhancement import enhance
from repo_ray.rewards.judge.rubric import Criterion, Rubric
from repo_ray.rewards.render import render_score
from repo_ray.rewards.rescore import rescore
from repo_ray.rewards.rules.registry import Rule
from repo_ray.rewards.rules.rule_set import PointedRule, RuleSet

OLD = Rubric((Criterion("kind", "It is kind.", 10), Criterion("rude", "It is rude.", -40)))


def _row(step: int, name: str, reply: str, r_model: float, kind: float, e_func: float = 0) -> Any:
    e_judge, detail = OLD.points({"kind": kind, "rude": 0.5})
    return {
        "step": step,
        "sample_id": name,
        "prompt_id": name,
        "messages": [{"role": "user", "content": "Good morning."}],
        "context": json.dumps({"stage": "ask"}),
        "reply": reply,
        "r_model": r_model,
        "e_judge": e_judge,
        "e_func": e_func,
        "reward": enhance(r_model, e_judge, e_func).total,
        "scores": scores_to_json((Score("judge", e_judge, detail), Score("rules", e_func))),
    }


ROWS = [_row(0, "a", "bad", 1.0, 0.9), _row(0, "b", "good", 0.9, 0.8), _row(1, "c", "bad", 1.0, 0)]


def _shout(reply: str, prompt: Prompt) -> str | None:
    return f"in stage {prompt.context['stage']}" if reply == "bad" else None


RULES = RuleSet((PointedRule(Rule("shout", _shout), -50.0),))


def test_new_rules_change_reward_and_rank(tmp_path: Path) -> None:
    path = tmp_path / "step.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS, schema=TRAJECTORIES_SCHEMA), path)
    result = rescore(pq.read_table(path), RULES, None)
    a, b, c = result.table.to_pylist()
    # a: E_judge = 0.9·10 - 0.5·40 = -11, E_func = -50: 1·(1 - 0.61)
    assert a["new_reward"] == pytest.approx(0.39)
    assert (a["old_e_func"], a["new_e_func"], a["new_e_judge"]) == (0, -50, pytest.approx(-11))
    assert (a["old_rank"], a["new_rank"], b["old_rank"], b["new_rank"]) == (1, 2, 2, 1)
    assert (c["old_rank"], c["new_rank"]) == (1, 1)
    assert a["new_rules"] == "shout -50: in stage ask"
    assert {r["sample_id"] for r in result.moved.to_pylist()} == {"a", "b"}


def test_new_points_are_given_to_saved_likelihoods() -> None:
    new = Rubric((Criterion("kind", "It is kind.", 100), Criterion("fresh", "It is new.", -10)))
    result = rescore(ROWS, None, new)
    assert [r["new_e_judge"] for r in result.table.to_pylist()] == pytest.approx([90, 80, 0])
    assert result.unjudged == ("fresh",)


def test_same_rubric_and_no_rules_change_nothing() -> None:
    result = rescore(ROWS, None, OLD)
    for row in result.table.to_pylist():
        assert row["new_reward"] == pytest.approx(row["old_reward"])
    assert result.moved.num_rows == 0
    assert result.unjudged == ()


def test_the_runs_combination_is_used() -> None:
    result = rescore(ROWS[:1], RULES, None, EnhancementConfig(combine="weighted_sum", n=50))
    assert result.table["new_reward"][0].as_py() == pytest.approx(1.0 - 1.0)


def test_judge_switched_off_keeps_its_zero() -> None:
    row = ROWS[0] | {"e_judge": 0.0, "scores": scores_to_json((Score("rules", 0.0),))}
    result = rescore([row], None, OLD)
    assert result.table["new_e_judge"][0].as_py() == 0.0
    assert result.unjudged == ("kind", "rude")


def test_a_rule_that_fails_leaves_no_reward_and_says_why() -> None:
    def fail(reply: str, prompt: Prompt) -> str | None:
        raise KeyError("x")

    rows = [_row(0, "a", "bad", 2.0, 0.9), _row(0, "b", "good", 1.0, 0.5)]
    half = RuleSet(
        (
            PointedRule(
                Rule("fails", lambda r, p: fail(r, p) if r == "bad" else None),
                -1.0,
            ),
        )
    )
    a, b = rescore(rows, half, None).table.to_pylist()
    assert a["error"].startswith("raised: rule fails")
    assert (a["new_reward"], a["new_rank"]) == (None, None)
    assert (b["old_rank"], b["new_rank"]) == (1, 1)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="'scores'"):
        rescore([{k: v for k, v in ROWS[0].items() if k != "scores"}], RULES, OLD)


def test_equal_rewards_share_a_rank() -> None:
    rows = [_row(0, name, "good", r, 0.5) for name, r in (("a", 1.0), ("b", 1.0), ("c", 0.5))]
    assert rescore(rows, None, None).table["new_rank"].to_pylist() == [1, 1, 3]


def test_likelihood_survives_json() -> None:
    scores = (
        Score("judge", 1.0, {"a": ScoreDetail(1.0, "x", 0.25), "b": ScoreDetail(0.0)}),
        Score.invalid("rules", "timeout: rule x"),
    )
    assert scores_from_json(scores_to_json(scores)) == scores


def test_render_shows_every_source_multiplier_and_total() -> None:
    value, detail = OLD.points({"kind": True, "rude": 0.0}, {"kind": "thank [b]you[/b]"})
    scores = (
        Score("reward_model", 2.0),
        Score("judge", value, detail),
        Score("rules", -50.0, {"shout": ScoreDetail(-50.0, "loud")}),
    )
    text = _shown("a [red]reply", scores, enhance(2.0, value, -50.0))
    for part in ("a [red]reply", "thank [b]you[/b]", "p=1.00", "shout", "-50.00", "loud"):
        assert part in text
    assert "multiplier = 0.6000" in text
    assert "R_total = +1.2000" in text


def test_render_shows_the_cause_of_an_invalid_score() -> None:
    text = _shown("hi", (Score.invalid("judge", "timeout: no answer"),), None)
    assert "timeout: no answer" in text
    assert "No total" in text


def _shown(reply: str, scores: tuple[Score, ...], reward: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(render_score(reply, scores, reward))
    return out.getvalue()
