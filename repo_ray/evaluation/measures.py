"""The paper's measures from judged replies, with intervals over dialogues (see `bootstrap`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repo_ray.evaluation.bootstrap import (
    Measure,
    MeasureSpec,
    Part,
    Row,
    difference,
    measure,
    per_dialogue,
    turn_mean,
)
from repo_ray.evaluation.evaluate import EMERGENT, SKILLS
from repo_ray.evaluation.gold.defects import shows_defect

__all__ = [
    "MEASURES",
    "Comparison",
    "Measure",
    "MeasureSpec",
    "Row",
    "compare_columns",
    "compute_differences",
    "compute_measures",
    "distinct_n",
]

ONLINE, BADCASES = "online", "badcases"
SERIOUS = ("major", "severe")


def _issues(row: Row) -> list[dict[str, str]]:
    return json.loads(row["issues"])


def _judged(rows: Sequence[Row]) -> list[Row]:
    """Rows whose task the gold evaluator knows."""
    return [row for row in rows if row["gold_score"] is not None]


def _rating(rows: Sequence[Row]) -> float | None:
    ratings = [row["rating"] for row in _judged(rows)]
    return float(np.mean(ratings)) if ratings else None


def _any_excellent(rows: Sequence[Row]) -> float | None:
    judged = _judged(rows)
    return float(any(row["excellent"] for row in judged)) if judged else None


def _serious(row: Row) -> float | None:
    if row["gold_score"] is None:
        return None
    return float(any(i["severity"] in SERIOUS for i in _issues(row)))


def _provoked(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["issue"]]


def _shown(row: Row) -> bool:
    """Whether the reply shows the row's known failure, however severe."""
    return any(shows_defect(row["issue"], i["id"], i["severity"]) for i in _issues(row))


def _outcome(rows: Sequence[Row]) -> str | None:
    """`clean`, `fixed_with_major`, `unresolved` or `severe_unresolved`; None without an
    issue, and where gold does not know the task.

    Judged over the turns that carry an issue. Fixed: none of them shows the known failure;
    clean: nor any other major or severe finding. Severe unresolved: not
    fixed, with a severe finding among those turns.
    """
    turns = _provoked(_judged(rows))
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

    return per_dialogue(value)


def _rule_violated(row: Row) -> float | None:
    """1 when a training rule took points; None where the rules were not asked or failed."""
    rules = json.loads(row["scores"] or "{}").get("rules")
    if rules is None or rules["value"] is None:
        return None
    return float(any(d["points"] < 0 for d in rules["detail"].values()))


def _skill(skill: str) -> Callable[[Row], float | None]:
    """1 or 0; None where the turn gave no occasion, gold does not know the task, or a file is
    older than the skill."""

    def value(row: Row) -> float | None:
        shown = row.get(skill)
        return None if shown is None else float(shown)

    return value


#: Definitions of the skills that the paper sees emerge in training.
_EMERGENT = {
    "emotional_value": (
        "Emotional value with root cause",
        "Share of replies to a concern that acknowledge it and name its cause.",
    ),
    "hotel_type_fit": (
        "Pitch fitted to the hotel",
        "Share of replies arguing for a price that argue with this type of hotel's guests.",
    ),
    "limited_information": (
        "Persuasion with little evidence",
        "Share of replies that ask with a sound argument where the competitor's price is missing, "
        "hardly lower, or contested.",
    ),
}


MEASURES: tuple[MeasureSpec, ...] = (
    MeasureSpec(
        "dialogue_rating",
        "Dialogue rating (1-5)",
        "Gold rating of every reply, averaged within a dialogue, then over dialogues.",
        "rating",
        "higher",
        ONLINE,
        per_dialogue(_rating),
    ),
    MeasureSpec(
        "excellent_dialogues",
        "Dialogues with an excellent reply",
        "Share of dialogues with at least one reply that the gold evaluator calls excellent.",
        "share",
        "higher",
        ONLINE,
        per_dialogue(_any_excellent),
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
            turn_mean(_skill(skill)),
        )
        for skill in SKILLS
    ),
    *(
        MeasureSpec(
            skill,
            _EMERGENT[skill][0],
            _EMERGENT[skill][1],
            "share",
            "higher",
            None,
            turn_mean(_skill(skill)),
        )
        for skill in EMERGENT
    ),
    MeasureSpec(
        "gold_score",
        "Gold score (0-1)",
        "Continuous score of the independent evaluator, mean over replies.",
        "score",
        "higher",
        None,
        turn_mean(lambda r: r["gold_score"]),
    ),
    MeasureSpec(
        "serious_issue_rate",
        "Replies with a serious gold issue",
        "Share of replies with a major or severe issue of the independent evaluator.",
        "share",
        "lower",
        None,
        turn_mean(_serious),
    ),
    MeasureSpec(
        "rule_violation_rate",
        "Replies that break a training rule",
        "Share of replies from which a rule of the reward took points.",
        "share",
        "lower",
        None,
        turn_mean(_rule_violated),
    ),
    MeasureSpec(
        "reward",
        "Training reward",
        "R_total as in training, mean over replies.",
        "reward",
        "higher",
        None,
        turn_mean(lambda r: r["reward"]),
    ),
    MeasureSpec(
        "words",
        "Words per reply",
        "Whitespace-separated words, mean over replies.",
        "words",
        "neither",
        None,
        turn_mean(lambda r: float(len(r["reply"].split()))),
    ),
    MeasureSpec(
        "truncated_share",
        "Cut off by the length limit",
        "Share of replies that ended at the token limit.",
        "share",
        "lower",
        None,
        turn_mean(lambda r: float(r["finish_reason"] == "length")),
    ),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods side by side. `by_seed`: each training seed's value alone, None without data.

    `differences` are method minus reference, for every method but the reference.
    """

    measures: Mapping[str, Mapping[str, Measure]]
    differences: Mapping[str, Mapping[str, Measure]]
    by_seed: Mapping[str, Mapping[str, tuple[float | None, ...]]]


def compare_columns(
    columns: Mapping[str, Sequence[Sequence[Row]]],
    reference: str,
    specs: Sequence[MeasureSpec] = MEASURES,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Every measure of every method, and its paired difference to the reference method.

    `columns` maps a method to the judged rows of each of its training seeds (a method that is not
    trained has one entry). Seeds pool their dialogues: a draw takes a dialogue with the replies of
    all seeds, for each method the same dialogues. The intervals thus say how far the result holds
    for other dialogues, given these seeds; how far seeds differ is what `by_seed` shows. Methods
    may have different numbers of seeds. Raises ValueError when the reference is not a column.
    """
    if reference not in columns:
        raise ValueError(f"reference {reference!r}: expected one of {sorted(columns)}")
    return Comparison(
        {name: _measures(rows, specs, resamples, seed) for name, rows in columns.items()},
        {
            name: _differences(rows, columns[reference], specs, resamples, seed)
            for name, rows in columns.items()
            if name != reference
        },
        {
            name: {
                spec.name: tuple(
                    m.value if (m := measure([rows], spec, 1, seed)) is not None else None
                    for rows in seeds
                )
                for spec in specs
            }
            for name, seeds in columns.items()
        },
    )


def compute_measures(
    rows: Sequence[Row], resamples: int = 1000, seed: int = 0
) -> dict[str, Measure]:
    """Every measure that the rows can give, plus distinct-1 and distinct-2; in display order.

    A measure without data (no bad cases, no rule scores, a task that gold does not know) is absent,
    not zero.
    """
    found = _measures([rows], MEASURES, resamples, seed)
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
    return _differences([rows], [baseline], MEASURES, resamples, seed)


def _measures(
    seeds: Sequence[Sequence[Row]], specs: Sequence[MeasureSpec], resamples: int, seed: int
) -> dict[str, Measure]:
    return {s.name: m for s in specs if (m := measure(seeds, s, resamples, seed)) is not None}


def _differences(
    ours: Sequence[Sequence[Row]],
    theirs: Sequence[Sequence[Row]],
    specs: Sequence[MeasureSpec],
    resamples: int,
    seed: int,
) -> dict[str, Measure]:
    return {
        s.name: m for s in specs if (m := difference(ours, theirs, s, resamples, seed)) is not None
    }


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of all texts (Li et al. 2016); 0 when there are none."""
    grams = [
        gram
        for words in (t.lower().split() for t in texts)
        for gram in zip(*(itertools.islice(words, i, None) for i in range(n)), strict=False)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0
