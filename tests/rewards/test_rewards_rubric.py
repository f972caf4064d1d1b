"""Rubric files and what verdicts are worth."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from repo_ray.rewards.declaration import RewardConfigError
from repo_ray.rewards.judge.rubric import Criterion, Rubric, load_rubric

RUBRIC = Rubric(
    (Criterion("kind", "The reply is kind.", 10), Criterion("rude", "It is rude.", -40))
)


def test_built_in_rubric_has_the_papers_criteria() -> None:
    assert set(load_rubric().ids) == {
        "sop_compliance",
        "emotional_value",
        "persuasion_style",
        "over_promising",
        "repeated_confirmation",
        "still_pursuing_price",
        "misread_silence",
    }


def test_verdicts_give_points() -> None:
    value, detail = RUBRIC.points({"kind": True, "rude": False}, {"kind": "thank you"})
    assert value == 10
    assert (detail["kind"].points, detail["kind"].reason) == (10, "thank you")
    assert str(detail["rude"].points) == "0.0"


def test_likelihoods_give_expected_points_and_are_kept() -> None:
    value, detail = RUBRIC.points({"kind": 0.5, "rude": 0.25})
    assert value == pytest.approx(-5)
    assert detail["rude"].points == pytest.approx(-10)
    assert detail["rude"].likelihood == 0.25


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ({"kind": True}, "rude"),
        ({"kind": True, "rude": False, "odd": True}, "odd"),
        ({"kind": 1.2, "rude": 0.0}, "kind"),
        ({"kind": math.nan, "rude": 0.0}, "kind"),
    ],
)
def test_bad_verdicts_are_refused(verdicts: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RUBRIC.points(verdicts)


def test_only_drops_other_criteria() -> None:
    assert RUBRIC.only({"rude"}).ids == ("rude",)


def test_digest_is_of_content_not_layout(tmp_path: Path) -> None:
    one = _load(tmp_path, "criteria: [{id: a, question: It is so., points: -1}]")
    two = _load(tmp_path, "# note\ncriteria:\n  - points: -1.0\n    id: a\n    question: It is so.")
    other = _load(tmp_path, "criteria: [{id: a, question: It is so., points: -2}]")
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "criteria: [{id: a, question: q, points: 1}, {id: a, question: r, points: 1}]",
            r"criteria\[1\]\.id: criterion 'a' is declared twice",
        ),
        ("criteria: [{id: a, question: q}]", r"criteria\[0\]\.points: missing"),
        ("criteria: [{id: a, question: ' ', points: 1}]", r"criteria\[0\]\.question"),
        ("criteria: [{id: a, question: q, points: ten}]", r"criteria\[0\]\.points"),
        ("criteria: [{id: a, question: q, points: true}]", r"criteria\[0\]\.points"),
        ("criteria: [{id: a, question: q, points: .nan}]", r"criteria\[0\]\.points"),
        ("criteria: [{id: a b, question: q, points: 1}]", r"criteria\[0\]\.id"),
        ("criteria: [{id: a, question: q, points: 1, x: 2}]", r"criteria\[0\]\.x: unknown key"),
        ("criteria: []", "criteria"),
        ("other: 1", "criteria: missing"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        ("criteria: [", "not valid YAML"),
        ("? [criteria]\n: []", "found unhashable key"),
        ("criteria: [{id: a, question: q, points: 0b_}]", "not valid YAML"),
        ("criteria: [{id: a, question: q, points: 1, points: 2}]", "'points' appears twice"),
    ],
)
def test_bad_file_is_refused_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RewardConfigError, match=message) as error:
        _load(tmp_path, text)
    assert str(tmp_path / "rubric.yaml") in str(error.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RewardConfigError, match="cannot be read"):
        load_rubric(tmp_path / "none.yaml")


def _load(folder: Path, text: str) -> Rubric:
    path = folder / "rubric.yaml"
    path.write_text(text)
    return load_rubric(path)
