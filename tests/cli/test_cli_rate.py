"""`repo-ray rate` apart from the page itself: what is refused, and the export."""

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from repo_ray.cli import app
from repo_ray.records import Message
from repo_ray.serving.rating.ratings import RatedReply, Rating, append_rating, ratings_path


def invoke(*arguments):
    return CliRunner().invoke(app, ["rate", *map(str, arguments)])


def rated(choice, turn):
    marks = {"left": (4, 2), "right": (2, 4), "both_good": (4, 4)}[choice]
    left, right = (
        RatedReply(column=column, reply=f"{column} {turn}", rating=mark, serious=False)
        for column, mark in zip(("base", "repo"), marks, strict=True)
    )
    return Rating(
        rater="anna",
        set="online",
        dialogue_id="d1",
        turn=turn,
        messages=(Message("user", f"What do you want, {turn}?"),),
        context=None,
        left=left,
        right=right,
        choice=choice,
        note="",
        seconds=3.0,
        time=datetime(2026, 1, 2, tzinfo=UTC),
    )


def test_exported_ratings_pass_validation(tmp_path):
    for turn, choice in enumerate(("left", "right", "both_good")):
        append_rating(ratings_path(tmp_path, "anna"), rated(choice, turn))
    out = tmp_path / "preferences.parquet"
    result = invoke(tmp_path, "--export", out)
    assert result.exit_code == 0, result.output
    assert "2 preference rows" in result.stdout
    assert "1 rated equal" in result.stdout
    rows = pq.read_table(out).to_pylist()
    assert [row["chosen"] for row in rows] == ["base 0", "repo 1"]
    checked = CliRunner().invoke(app, ["data", "validate", str(out), "--kind", "preferences"])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no evaluated replies"),
        (("--export", "x.parquet"), "no preference in 0 ratings"),
        (("--export", "x.csv"), "*.parquet"),
        (("--export", "x.parquet", "--rater", "anna"), "leave out"),
        (("--export", "x.parquet", "--columns", "a", "b"), "leave out"),
    ],
)
def test_input_at_fault_is_told_in_one_message(tmp_path, arguments, words):
    result = invoke(tmp_path, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
