from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from rating_cases import AFTER, BEFORE, write_run
from typer.testing import CliRunner

from repo_ray.cli import app
from repo_ray.evaluation.evaluate import load_evaluation
from repo_ray.evaluation.hacking import serious
from repo_ray.evaluation.llm_evaluator import Opinion, save_opinions
from repo_ray.records import Message
from repo_ray.serving.opinions import agreements, ask_llm, columns_of
from repo_ray.serving.rating.ratings import RatedReply, Rating, append_rating, ratings_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path, 8)
    return tmp_path


def rate(run: Path, turn: int, rater: str, shift: int) -> None:
    """A person who says what gold says, `shift` points higher within the scale."""
    sides = []
    for column in (BEFORE, AFTER):
        row = load_evaluation(run / "evaluation", column)[turn]
        points = max(1, min(5, row["rating"] + shift))
        sides.append(
            RatedReply(column=column, reply=row["reply"], rating=points, serious=serious(row))
        )
    left, right = sides
    choice = "both_good"
    if left.rating != right.rating:
        choice = "left" if left.rating > right.rating else "right"
    append_rating(
        ratings_path(run, rater),
        Rating(
            rater=rater,
            set=row["set"],
            dialogue_id=row["dialogue_id"],
            turn=row["turn"],
            messages=tuple(Message(**m) for m in row["messages"]),
            context=row["context"] or "",
            left=left,
            right=right,
            choice=choice,
            note="",
            seconds=1.0,
            time=datetime(2026, 1, 1, tzinfo=UTC),
        ),
    )


def test_a_person_who_agrees_with_gold_has_a_kappa_of_one(run: Path) -> None:
    for turn in range(8):
        rate(run, turn, "anna", 0)
    found = agreements(run, columns_of(run / "evaluation"))
    (ratings,), (faults,) = found["rating"], found["serious issue"]
    assert (ratings.first, ratings.second) == ("gold", "anna")
    assert ratings.kappa == pytest.approx(1.0)
    assert faults.kappa == pytest.approx(1.0)
    assert ratings.n == 16


def test_every_pair_of_evaluators_is_compared_on_what_both_judged(run: Path) -> None:
    for turn in range(4):
        rate(run, turn, "anna", 0)
    rows = load_evaluation(run / "evaluation", AFTER)
    opinions = [Opinion(rating=6 - row["rating"], serious_issue=False) for row in rows]
    opinions[0] = Opinion(error="timeout: too slow")
    save_opinions(run / "evaluation", AFTER, rows, opinions, "model@1")
    by_pair = {
        (a.first, a.second): a for a in agreements(run, columns_of(run / "evaluation"))["rating"]
    }
    assert set(by_pair) == {("gold", "model@1"), ("gold", "anna"), ("model@1", "anna")}
    assert by_pair["gold", "model@1"].n == 7
    assert by_pair["model@1", "anna"].n == 3
    against = by_pair["gold", "model@1"].kappa
    assert against is not None
    assert against < 0


def test_a_rating_of_a_reply_that_has_changed_does_not_count(run: Path) -> None:
    rate(run, 0, "anna", 0)
    write_run(run, 8, hostile=True)  # BEFORE's first reply is another now
    (pair,) = agreements(run, columns_of(run / "evaluation"))["rating"]
    assert pair.n == 1


async def test_opinions_that_cannot_be_had_are_counted_by_cause(run: Path) -> None:
    class Slow:
        name = "slow@1"

        async def judge_rows(self, rows):
            return [Opinion(error="timeout: too slow") for _ in rows]

    invalid = await ask_llm(Slow(), run / "evaluation", [AFTER])
    assert invalid == {"timeout": 8}


def test_the_command_says_what_is_missing(run: Path) -> None:
    result = CliRunner().invoke(app, ["agree", str(run)])
    assert result.exit_code == 2
    assert "gold is the only evaluator so far" in result.output
    rate(run, 0, "anna", 0)
    result = CliRunner().invoke(app, ["agree", str(run)])
    assert result.exit_code == 0
    assert "gold, anna" in result.output
