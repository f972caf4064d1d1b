"""All evaluators of a run's replies side by side: gold, an LLM behind an endpoint, people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repo_ray.evaluation.agreement import BINARY, Agreement, pairwise_agreement
from repo_ray.evaluation.evaluate import load_evaluation
from repo_ray.evaluation.hacking import serious
from repo_ray.evaluation.llm_evaluator import (
    LLMEvaluator,
    invalid_causes,
    load_opinions,
    save_opinions,
)
from repo_ray.serving.rating import load_ratings

Answers = dict[str, dict[Hashable, int | None]]


def columns_of(evaluation: Path) -> list[str]:
    """The evaluated columns of a folder with `evaluation-<column>.parquet`."""
    names = (path.stem for path in sorted(evaluation.glob("evaluation-*.parquet")))
    return [name.removeprefix("evaluation-") for name in names]


async def ask_llm(
    evaluator: LLMEvaluator, evaluation: Path, columns: Sequence[str]
) -> dict[str, int]:
    """Opinions on every reply of the columns, saved beside them; counts of those that could not be
    had by cause. The questions are about the built-in task: replies to another (`other_task`) are
    not asked about."""
    invalid: Counter[str] = Counter()
    for column in columns:
        every = load_evaluation(evaluation, column)
        rows = [row for row in every if row["gold_score"] is not None]
        if len(rows) < len(every):
            invalid["other_task"] += len(every) - len(rows)
        opinions = await evaluator.judge_rows(rows)
        save_opinions(evaluation, column, rows, opinions, evaluator.name)
        invalid.update(invalid_causes(opinions))
    return dict(invalid)


def agreements(run: Path, columns: Sequence[str]) -> dict[str, list[Agreement]]:
    """Cohen's kappa of every pair of evaluators on ratings (quadratic) and on serious issues.

    A person's rating counts only while the reply is still the one that was rated.
    """
    evaluation = run / "evaluation"
    rating: Answers = {"gold": {}}
    faults: Answers = {"gold": {}}
    dialogues: dict[Hashable, Hashable] = {}
    replies: dict[Hashable, str] = {}
    for column in columns:
        for row in load_evaluation(evaluation, column):
            item = _item(column, row)
            dialogues[item] = (row["set"], row["dialogue_id"])
            replies[item] = row["reply"]
            rating["gold"][item] = row["rating"]
            known = row["gold_score"] is not None
            faults["gold"][item] = int(serious(row)) if known else None
        if not (evaluation / f"opinions-{column}.parquet").exists():
            continue
        for row in load_opinions(evaluation, column):
            item, name = _item(column, row), row["evaluator"]
            rating.setdefault(name, {})[item] = row["rating"]
            fault = row["serious_issue"]
            faults.setdefault(name, {})[item] = None if fault is None else int(fault)
    for one in load_ratings(run):
        place = {"set": one.set, "dialogue_id": one.dialogue_id, "turn": one.turn}
        for side in (one.left, one.right):
            item = _item(side.column, place)
            if replies.get(item) == side.reply:
                rating.setdefault(one.rater, {})[item] = side.rating
                faults.setdefault(one.rater, {})[item] = int(side.serious)
    return {
        "rating": pairwise_agreement(rating, dialogues),
        "serious issue": pairwise_agreement(faults, dialogues, BINARY, "none"),
    }


def _item(column: str, row: Mapping[str, Any]) -> Hashable:
    return column, row["set"], row["dialogue_id"], row["turn"]
