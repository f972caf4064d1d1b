"""The paper's measures from judged replies, with intervals over dialogues.

A dialogue, not a turn, is the unit of resampling: turns of one dialogue are not independent.
Every measure is a ratio of two sums over dialogues, so that one vectorised bootstrap serves all.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from repo_ray.evaluation.evaluate import SKILLS
from repo_ray.evaluation.gold.defects import shows_defect

Row = Mapping[str, Any]
Unit = Literal["rating", "share", "score", "words", "tokens", "reward"]
#: Sum and count of one dialogue; a count of 0 leaves the dialogue out of the measure.
Part = tuple[float, float]

ONLINE, BADCASES = "online", "badcases"
SERIOUS = ("major", "severe")


@dataclass(frozen=True, slots=True)
class Measure:
    """A value with its 95% interval over `n` dialogues. None bounds: no interval is defined."""

    name: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class MeasureSpec:
    """What a measure is called, over which set it runs, and which direction is better."""

    name: str
    label: str
    definition: str
    unit: Unit
    better: Literal["higher", "lower", "neither"]
    set: str | None
    part: Callable[[Sequence[Row]], Part]


def _issues(row: Row) -> list[dict[str, str]]:
    return json.loads(row["issues"])


def _turn_mean(value: Callable[[Row], float | None]) -> Callable[[Sequence[Row]], Part]:
    def part(rows: Sequence[Row]) -> Part:
        values = [v for row in rows if (v := value(row)) is not None]
        return float(sum(values)), float(len(values))

    return part


def _dialogue(value: Callable[[Sequence[Row]], float | None]) -> Callable[[Sequence[Row]], Part]:
    def part(rows: Sequence[Row]) -> Part:
        result = value(rows)
        return (0.0, 0.0) if result is None else (float(result), 1.0)

    return part


def _provoked(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["issue"]]


def _shown(row: Row) -> bool:
    """Whether the reply shows the row's known failure, however severe."""
    return any(shows_defect(row["issue"], i["id"], i["severity"]) for i in _issues(row))


def _outcome(rows: Sequence[Row]) -> str | None:
    """`clean`, `fixed_with_major`, `unresolved` or `severe_unresolved`; None without an issue.

    Judged over the turns that carry an issue. Fixed: none of them shows the known failure;
    clean: nor any other major or severe finding. Severe unresolved: not
    fixed, with a severe finding among those turns.
    """
    turns = _provoked(rows)
    if not turns:
        return None
    severities = {i["severity"] for row in turns for i in _issues(row)}
    if not any(_shown(row) for row in turns):
        return "fixed_with_major" if severities & set(SERIOUS) else "clean"
    return "severe_unresolved" if "severe" in severities else "unresolved"


def _outcome_share(*outcomes: str) -> Callable[[Sequence[Row]], Part]:
    def value(rows: Sequence[Row]) -> float | None:
        outcome = _outcome(rows)
        return None if outcome is None else float(outcome in outcomes)

    return _dialogue(value)


def _rule_violated(row: Row) -> float | None:
    """1 when a training rule took points; None where the rules were not asked or failed."""
    rules = json.loads(row["scores"] or "{}").get("rules")
    if rules is None or rules["value"] is None:
        return None
    return float(any(d["points"] < 0 for d in rules["detail"].values()))


def _skill(skill: str) -> Callable[[Row], float]:
    return lambda row: float(row[skill])


MEASURES: tuple[MeasureSpec, ...] = (
    MeasureSpec(
        "dialogue_rating",
        "Dialogue rating (1-5)",
        "Gold rating of every reply, averaged within a dialogue, then over dialogues.",
        "rating",
        "higher",
        ONLINE,
        _dialogue(lambda rows: float(np.mean([r["rating"] for r in rows]))),
    ),
    MeasureSpec(
        "excellent_dialogues",
        "Dialogues with an excellent reply",
        "Share of dialogues with at least one reply that the gold evaluator calls excellent.",
        "share",
        "higher",
        ONLINE,
        _dialogue(lambda rows: float(any(r["excellent"] for r in rows))),
    ),
    MeasureSpec(
        "fix_rate",
        "Bad cases fixed",
        "Share of bad-case dialogues in which no reply shows the known failure.",
        "share",
        "higher",
        BADCASES,
        _outcome_share("clean", "fixed_with_major"),
    ),
    MeasureSpec(
        "clean_fix",
        "Bad cases fixed cleanly",
        "Fixed, and no other major or severe issue in those replies.",
        "share",
        "higher",
        BADCASES,
        _outcome_share("clean"),
    ),
    MeasureSpec(
        "fixed_with_major",
        "Fixed, a major issue left",
        "The known failure is gone, another major or severe issue is there.",
        "share",
        "lower",
        BADCASES,
        _outcome_share("fixed_with_major"),
    ),
    MeasureSpec(
        "severe_unresolved",
        "Severe and unresolved",
        "The known failure is there, with a severe issue in those replies.",
        "share",
        "lower",
        BADCASES,
        _outcome_share("severe_unresolved"),
    ),
    *(
        MeasureSpec(
            skill,
            skill.replace("_", " ").capitalize(),
            "Share of replies that show the skill (paper's four binary skills).",
            "share",
            "higher",
            None,
            _turn_mean(_skill(skill)),
        )
        for skill in SKILLS
    ),
    MeasureSpec(
        "gold_score",
        "Gold score (0-1)",
        "Continuous score of the independent evaluator, mean over replies.",
        "score",
        "higher",
        None,
        _turn_mean(lambda r: r["gold_score"]),
    ),
    MeasureSpec(
        "serious_issue_rate",
        "Replies with a serious gold issue",
        "Share of replies with a major or severe issue of the independent evaluator.",
        "share",
        "lower",
        None,
        _turn_mean(lambda r: float(any(i["severity"] in SERIOUS for i in _issues(r)))),
    ),
    MeasureSpec(
        "rule_violation_rate",
        "Replies that break a training rule",
        "Share of replies from which a rule of the reward took points.",
        "share",
        "lower",
        None,
        _turn_mean(_rule_violated),
    ),
    MeasureSpec(
        "reward",
        "Training reward",
        "R_total as in training, mean over replies.",
        "reward",
        "higher",
        None,
        _turn_mean(lambda r: r["reward"]),
    ),
    MeasureSpec(
        "words",
        "Words per reply",
        "Whitespace-separated words, mean over replies.",
        "words",
        "neither",
        None,
        _turn_mean(lambda r: float(len(r["reply"].split()))),
    ),
    MeasureSpec(
        "truncated_share",
        "Cut off by the length limit",
        "Share of replies that ended at the token limit.",
        "share",
        "lower",
        None,
        _turn_mean(lambda r: float(r["finish_reason"] == "length")),
    ),
)


def compute_measures(
    rows: Sequence[Row], resamples: int = 1000, seed: int = 0
) -> dict[str, Measure]:
    """Every measure that the rows can give, plus distinct-1 and distinct-2; in display order.

    A measure without data (no bad cases, no rule scores) is absent, not zero. Interval: 2.5 and
    97.5 percentiles over `resamples` bootstrap draws of dialogues; where every dialogue agrees on
    0 or on 1, the bootstrap has no width, and the exact one-sided binomial bound over dialogues
    takes its place.
    """
    found: dict[str, Measure] = {}
    for spec in MEASURES:
        parts = np.array(list(_parts(rows, spec).values()), dtype=float).reshape(-1, 2)
        parts = parts[parts[:, 1] > 0]
        if len(parts):
            low, high = _interval(parts, spec, resamples, seed)
            value = float(parts[:, 0].sum() / parts[:, 1].sum())
            found[spec.name] = Measure(spec.name, value, low, high, len(parts))
    dialogues = len({(r["set"], r["dialogue_id"]) for r in rows})
    for n in (1, 2):
        # Resampling repeats dialogues, which lowers distinct-n: no honest bootstrap interval.
        value = distinct_n([r["reply"] for r in rows], n)
        if rows:
            found[f"distinct_{n}"] = Measure(f"distinct_{n}", value, None, None, dialogues)
    return found


def compute_differences(
    rows: Sequence[Row], baseline: Sequence[Row], resamples: int = 1000, seed: int = 0
) -> dict[str, Measure]:
    """Measure of `rows` minus that of `baseline`, paired: the same dialogues are drawn for both.

    Only dialogues that both columns have count.
    """
    found: dict[str, Measure] = {}
    for spec in MEASURES:
        ours, theirs = _parts(rows, spec), _parts(baseline, spec)
        shared = [k for k in ours if k in theirs and ours[k][1] > 0 and theirs[k][1] > 0]
        if not shared:
            continue
        a = np.array([ours[k] for k in shared], dtype=float)
        b = np.array([theirs[k] for k in shared], dtype=float)
        draws = _draws(len(shared), resamples, seed)
        gaps = _ratios(a, draws) - _ratios(b, draws)
        low, high = np.percentile(gaps, [2.5, 97.5])
        value = a[:, 0].sum() / a[:, 1].sum() - b[:, 0].sum() / b[:, 1].sum()
        found[spec.name] = Measure(spec.name, float(value), float(low), float(high), len(shared))
    return found


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of all texts (Li et al. 2016); 0 when there are none."""
    grams = [
        gram
        for words in (t.lower().split() for t in texts)
        for gram in zip(*(itertools.islice(words, i, None) for i in range(n)), strict=False)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def _parts(rows: Sequence[Row], spec: MeasureSpec) -> dict[tuple[str, str], Part]:
    dialogues: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if spec.set is None or row["set"] == spec.set:
            dialogues.setdefault((row["set"], row["dialogue_id"]), []).append(row)
    return {key: spec.part(own) for key, own in dialogues.items()}


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """Indices [resamples, count] of dialogues drawn with replacement."""
    return np.random.default_rng(seed).integers(0, count, size=(resamples, count))


def _ratios(parts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """`parts` [dialogues, 2] -> ratio of sums per draw [resamples]."""
    sums = parts[draws].sum(axis=1)
    return sums[:, 0] / sums[:, 1]


def _interval(
    parts: np.ndarray, spec: MeasureSpec, resamples: int, seed: int
) -> tuple[float, float]:
    total = parts[:, 0].sum()
    if spec.unit == "share" and total in (0.0, parts[:, 1].sum()):
        # Clopper-Pearson at the edge, n dialogues: 1 - 0.025^(1/n).
        width = 1 - 0.025 ** (1 / len(parts))
        return (0.0, width) if total == 0 else (1 - width, 1.0)
    low, high = np.percentile(_ratios(parts, _draws(len(parts), resamples, seed)), [2.5, 97.5])
    return float(low), float(high)
