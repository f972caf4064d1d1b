"""Rule files: what is accepted, what is refused, and how points add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repo_ray.records import LONGEST_REASON, Message, Prompt, scores_from_json, scores_to_json
from repo_ray.rewards.declaration import RewardConfigError
from repo_ray.rewards.rules import PointedRule, Rule, RuleSet, load_rules

PROMPT = Prompt("p", (Message("user", "Good morning."),))

MINE = """
from repo_ray.rewards.rules import rule

@rule("no_hello")
def no_hello(reply, prompt, *, word: str = "hello", count: int = 1):
    return f"no {word}" if word not in reply else None

@rule("needs_limit")
def needs_limit(reply, prompt, *, limit: int):
    return None
"""


def _load(folder: Path, text: str) -> RuleSet:
    (folder / "rules.yaml").write_text(text)
    return load_rules(folder / "rules.yaml")


def test_points_add_up_unclipped_and_hits_are_listed() -> None:
    rules = RuleSet(
        (
            PointedRule(Rule("a", lambda r, p: "yes"), -80.0),
            PointedRule(Rule("b", lambda r, p: None), -7.0),
            PointedRule(Rule("c", lambda r, p: "also"), -70.0),
            PointedRule(Rule("d", lambda r, p: "merit"), 5.0),
        )
    )
    score = rules.score(PROMPT, "x")
    assert score.value == -145
    assert {k: (d.points, d.reason) for k, d in score.detail.items()} == {
        "a": (-80, "yes"),
        "c": (-70, "also"),
        "d": (5, "merit"),
    }


def test_built_in_rules_load() -> None:
    rules = load_rules()
    assert len(rules.rules) >= 12
    assert rules.digest == load_rules().digest


def test_user_rule_file_beside_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    text = "rules: [{id: no_hello, points: -3, file: mine.py, params: {word: hi}}, {id: too_short, points: -1, params: {min_words: 2}}]"
    rules = _load(tmp_path, text)
    assert rules.score(PROMPT, "hello").detail["no_hello"].reason == "no hi"
    assert rules.score(PROMPT, "hello").value == -4
    assert rules.score(PROMPT, "hi you").value == 0
    (tmp_path / "mine.py").write_text(MINE + "\n# changed")
    assert _load(tmp_path, text).digest != rules.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{id: nope, points: -1}]", r"rules\[0\]\.id: unknown rule 'nope'; .*over_long"),
        (
            "rules: [{id: format_breakage, points: -1}, {id: format_breakage, points: -2}]",
            r"rules\[1\]\.id: rule 'format_breakage' is declared twice",
        ),
        ("rules: [{id: format_breakage, points: many}]", r"rules\[0\]\.points: .*'many'"),
        ("rules: [{id: format_breakage, points: '3'}]", r"rules\[0\]\.points"),
        ("rules: [{id: format_breakage, points: true}]", r"rules\[0\]\.points"),
        ("rules: [{id: format_breakage, points: .inf}]", r"rules\[0\]\.points"),
        ("rules: [{id: format_breakage}]", r"rules\[0\]\.points: missing"),
        (
            "rules: [{id: over_long, points: -1, params: {max_word: 5}}]",
            r"rules\[0\]\.params: unknown parameter 'max_word'; rule over_long takes max_words",
        ),
        (
            "rules: [{id: over_long, points: -1, params: {max_words: ten}}]",
            r"rules\[0\]\.params: parameter max_words: .*'ten'",
        ),
        ("rules: [{id: over_long, points: -1}]", "parameter max_words is missing"),
        ("rules: [{id: over_long, points: -1, weight: 2}]", r"rules\[0\]\.weight: unknown key"),
        ("rules: []", "rules"),
        ("rules: [{id: no_hello, points: 1, file: none.py}]", r"rules\[0\]\.file: .*none\.py"),
        ("rules: [{id: other, points: 1, file: mine.py}]", r"mine\.py has needs_limit, no_hello"),
        ("rules: [{id: needs_limit, points: 1, file: mine.py}]", "parameter limit is missing"),
        ("rules: [{id: x, points: 1, file: broken.py}]", r"broken\.py: ZeroDivisionError"),
        ("rules: [{id: x, points: 1, file: twice.py}]", "'x' is used by two functions"),
        ("rules: [{id: x, points: 1, file: exits.py}]", "SystemExit"),
    ],
)
def test_bad_file_is_refused_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    (tmp_path / "twice.py").write_text(
        "from repo_ray.rewards.rules import rule\n"
        "a = rule('x')(lambda r, p: None)\nb = rule('x')(lambda r, p: None)\n"
    )
    with pytest.raises(RewardConfigError, match=message) as error:
        _load(tmp_path, text)
    assert str(tmp_path / "rules.yaml") in str(error.value)


@given(st.text(st.characters(exclude_categories=()), min_size=1), st.booleans())
@example("\ud800", False)
@example("x" * 60_000_000, False)
@example("x" * 60_000_000, True)
def test_whatever_a_rule_says_can_be_stored(text: str, raises: bool) -> None:
    """Lone surrogates and endless reasons; plain ones stay as they are."""

    def rule(reply: str, prompt: Prompt) -> str:
        if raises:
            raise ValueError(text)
        return text

    score = RuleSet((PointedRule(Rule("a", rule), -1.0),)).score(PROMPT, "x")
    stored = pa.array([scores_to_json((score,))])
    assert stored.nbytes < 10 * LONGEST_REASON
    assert scores_from_json(stored[0].as_py()) == (replace(score, latency_s=ANY),)
    assert score.valid is not raises
    if not raises and len(text) < LONGEST_REASON and text.isprintable():
        assert score.detail["a"].reason == text
