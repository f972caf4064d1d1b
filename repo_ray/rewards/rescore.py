"""Replays saved trajectories through changed rules and another rubric."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from repo_ray.config.rewards import EnhancementConfig
from repo_ray.records import Message, Prompt, Score, scores_from_json
from repo_ray.rewards.enhancement import combine
from repo_ray.rewards.judge.rubric import Rubric

#: One row per sample. Ranks count from 1, the highest reward of a step; equal rewards share one.
#: `error` says why a sample has no new reward; it then has no new rank either.
RESCORE_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("reply", pa.string()),
        pa.field("r_model", pa.float64()),
        pa.field("old_e_judge", pa.float64()),
        pa.field("new_e_judge", pa.float64()),
        pa.field("old_e_func", pa.float64()),
        pa.field("new_e_func", pa.float64()),
        pa.field("old_reward", pa.float64()),
        pa.field("new_reward", pa.float64()),
        pa.field("old_rank", pa.int64()),
        pa.field("new_rank", pa.int64()),
        pa.field("new_rules", pa.string()),
        pa.field("error", pa.string(), nullable=False),
    ]
)

_REQUIRED = (
    "step",
    "sample_id",
    "messages",
    "context",
    "reply",
    "r_model",
    "e_judge",
    "e_func",
    "reward",
    "scores",
)


class RuleScorer(Protocol):
    """What scores a reply by rules: a `RuleSet` here, or a `RuleRunner` in a child process."""

    def score(self, prompt: Prompt, reply: str) -> Score: ...


@dataclass(frozen=True, slots=True)
class Rescore:
    """`table` has `RESCORE_SCHEMA`. `unjudged` are the rubric's criteria of which no sample has a
    verdict: they count nothing until a judge is asked."""

    table: pa.Table
    unjudged: tuple[str, ...]

    @property
    def moved(self) -> pa.Table:
        """The rows whose rank within their step differs, those that moved furthest first."""
        rows = [r for r in self.table.to_pylist() if r["new_rank"] not in (None, r["old_rank"])]
        rows.sort(key=lambda r: (-abs(r["new_rank"] - r["old_rank"]), r["step"], r["new_rank"]))
        return pa.Table.from_pylist(rows, schema=RESCORE_SCHEMA)


def rescore(
    rows: pa.Table | Iterable[Mapping[str, Any]],
    rule_set: RuleScorer | None,
    rubric: Rubric | None,
    enhancement: EnhancementConfig | None = None,
) -> Rescore:
    """Recomputes E_func, E_judge and the reward of saved samples.

    `rows`: `TRAJECTORIES_SCHEMA`, of any number of steps. `rule_set` and `rubric`: what to use
    instead of the run's; None keeps the saved E_func or E_judge. `enhancement`: the run's, as the
    default the paper's. Rules run again; the judge is not asked: its saved verdicts or likelihoods
    are given the new points. R_model stays. Raises `ValueError` for a row that lacks a column.
    """
    samples = rows.to_pylist() if isinstance(rows, pa.Table) else list(rows)
    likelihoods = [_likelihoods(sample) for sample in samples]
    judged = set().union(*likelihoods)
    asked = rubric.only(judged) if rubric is not None and judged else None
    enhancement = enhancement or EnhancementConfig()
    table = [
        _again(sample, said, rule_set, asked, enhancement)
        for sample, said in zip(samples, likelihoods, strict=True)
    ]
    _rank(table, "old_reward", "old_rank")
    _rank(table, "new_reward", "new_rank")
    unjudged = tuple(c for c in rubric.ids if c not in judged) if rubric is not None else ()
    return Rescore(pa.Table.from_pylist(table, schema=RESCORE_SCHEMA), unjudged)


def _again(
    sample: Mapping[str, Any],
    likelihoods: Mapping[str, float],
    rule_set: RuleScorer | None,
    rubric: Rubric | None,
    enhancement: EnhancementConfig,
) -> dict[str, Any]:
    e_judge, e_func, rules, error = sample["e_judge"], sample["e_func"], "", ""
    if rubric is not None:
        if missing := [c for c in rubric.ids if c not in likelihoods]:
            e_judge, error = None, f"no saved verdict on {', '.join(missing)}"
        else:
            e_judge, _ = rubric.points({c: likelihoods[c] for c in rubric.ids})
    if rule_set is not None:
        score = rule_set.score(_prompt(sample), sample["reply"])
        e_func, error = score.value, error or score.error
        rules = "; ".join(f"{name} {d.points:+g}: {d.reason}" for name, d in score.detail.items())
    reward = None
    if e_judge is not None and e_func is not None:
        reward = combine(enhancement, sample["r_model"], e_judge, e_func).total
    return {
        "step": sample["step"],
        "sample_id": sample["sample_id"],
        "reply": sample["reply"],
        "r_model": sample["r_model"],
        "old_e_judge": sample["e_judge"],
        "new_e_judge": e_judge,
        "old_e_func": sample["e_func"],
        "new_e_func": e_func,
        "old_reward": sample["reward"],
        "new_reward": reward,
        "new_rules": rules,
        "error": error,
    }


def _likelihoods(sample: Mapping[str, Any]) -> dict[str, float]:
    for column in _REQUIRED:
        if column not in sample:
            raise ValueError(f"trajectories: column {column!r} is missing")
    if not sample["scores"]:
        return {}
    return {
        criterion: detail.likelihood
        for score in scores_from_json(sample["scores"])
        if score.source == "judge"
        for criterion, detail in score.detail.items()
        if detail.likelihood is not None
    }


def _prompt(sample: Mapping[str, Any]) -> Prompt:
    return Prompt(
        sample.get("prompt_id", sample["sample_id"]),
        tuple(Message(m["role"], m["content"]) for m in sample["messages"]),
        json.loads(sample["context"]) if sample["context"] else {},
    )


def _rank(table: list[dict[str, Any]], reward: str, rank: str) -> None:
    """Ranks rows within their step. Only rows with both rewards take part, so that a sample that
    could not be rescored does not push the others down."""
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in table:
        row[rank] = None
        if row["old_reward"] is not None and row["new_reward"] is not None:
            steps.setdefault(row["step"], []).append(row)
    for rows in steps.values():
        rows.sort(key=lambda r: -r[reward])
        for position, row in enumerate(rows):
            tied = position > 0 and rows[position - 1][reward] == row[reward]
            row[rank] = rows[position - 1][rank] if tied else position + 1
