"""The comparison's table, made from saved files alone: measures by column, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from repo_ray.comparison.cost import Cost
from repo_ray.evaluation.measures import (
    MEASURES,
    Measure,
    MeasureSpec,
    Row,
    compute_differences,
    compute_measures,
)

#: Figures of the paper by method (arXiv 2510.04214, online and bad-case tables), in the units of
#: `MEASURES`; other model, data and judges, so only the order of methods can be compared.
PAPER: Mapping[str, Mapping[str, float]] = {
    "base": {"dialogue_rating": 3.43, "excellent_dialogues": 0.1333},
    "sft": {"fix_rate": 0.9333, "clean_fix": 0.3111},
    "dpo": {
        "dialogue_rating": 3.80,
        "excellent_dialogues": 0.3333,
        "fix_rate": 0.9333,
        "clean_fix": 0.4000,
    },
    "ppo": {"fix_rate": 0.8666, "clean_fix": 0.3333},
    "grpo": {
        "dialogue_rating": 4.30,
        "excellent_dialogues": 0.4333,
        "fix_rate": 0.7110,
        "clean_fix": 0.4444,
    },
    "repo": {
        "dialogue_rating": 4.63,
        "excellent_dialogues": 0.6667,
        "fix_rate": 0.9333,
        "clean_fix": 0.7556,
    },
}

#: The paper's own measures come first and in its order; the README shows these.
HEADLINE = (
    "dialogue_rating",
    "excellent_dialogues",
    "fix_rate",
    "clean_fix",
    "fixed_with_major",
    "severe_unresolved",
    "gold_score",
)

#: Heads of the table of costs: what the budget counts, tokens, minutes, memory, calls.
COSTS = (
    *("seen", "tokens sampled", "tokens learned", "minutes", "CPU minutes", "GPU minutes"),
    *("peak GiB", "judge calls", "RM calls"),
)


@dataclass(frozen=True)
class Column:
    """One line of the table: a method with the rows of all its seeds, or a fixed reference."""

    key: str
    title: str
    runs: Sequence[Sequence[Row]]
    costs: Sequence[Cost] = ()

    @property
    def rows(self) -> list[Row]:
        """All seeds' replies; a dialogue of one seed is a dialogue of its own."""
        return [
            {**row, "dialogue_id": f"{row['dialogue_id']}#{seed}"} if len(self.runs) > 1 else row
            for seed, rows in enumerate(self.runs)
            for row in rows
        ]


def comparison_json(
    columns: Sequence[Column], reference: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Everything that the table and the page show: the content of `comparison.json`.

    `differences` are the reference method's measure minus the column's, paired by dialogue.
    """
    by_key = {column.key: column for column in columns}
    found: dict[str, Any] = {"reference": reference, "columns": []}
    for column in columns:
        measures = compute_measures(column.rows, resamples, seed)
        differences = {}
        if reference in by_key and column.key != reference:
            differences = _paired(by_key[reference], column, resamples, seed)
        found["columns"].append(
            {
                "key": column.key,
                "title": column.title,
                "seeds": len(column.runs),
                "measures": {k: asdict(m) for k, m in measures.items()},
                "differences": {k: asdict(m) for k, m in differences.items()},
                "costs": [asdict(cost) for cost in column.costs],
                "paper": dict(PAPER.get(column.key, {})),
            }
        )
    return found


def _paired(reference: Column, column: Column, resamples: int, seed: int) -> dict[str, Measure]:
    """Reference minus column. A column with one run is compared with every run of the other."""
    count = max(len(reference.runs), len(column.runs))

    def spread(runs: Sequence[Sequence[Row]]) -> Column:
        return Column("", "", [runs[i % len(runs)] for i in range(count)])

    ours, theirs = spread(reference.runs).rows, spread(column.runs).rows
    return compute_differences(ours, theirs, resamples, seed)


def markdown(content: Mapping[str, Any]) -> str:
    """The table for a terminal, a README or a paper."""
    specs = [spec for name in HEADLINE for spec in MEASURES if spec.name == name]
    lines = [
        "| | " + " | ".join(spec.label for spec in specs) + " |",
        "|---|" + "---:|" * len(specs),
    ]
    for column in content["columns"]:
        cells = [_cell(spec, column["measures"].get(spec.name)) for spec in specs]
        lines.append(f"| {column['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cost_markdown(content: Mapping[str, Any]) -> str:
    """What each method cost, the mean over its seeds."""
    lines = ["| | " + " | ".join(COSTS) + " |", "|---|" + "---:|" * len(COSTS)]
    for column in content["columns"]:
        if column["costs"]:
            cells = cost_cells(column["costs"])
            lines.append(f"| {column['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cost_cells(costs: Sequence[Mapping[str, float]]) -> list[str]:
    """One method's means in the order of `COSTS`."""

    def mean(key: str) -> float:
        return sum(cost[key] for cost in costs) / len(costs)

    return [
        *(f"{mean(k):,.0f}" for k in ("seen", "tokens_sampled", "tokens_learned")),
        *(f"{mean(k) / 60:.1f}" for k in ("wall_s", "cpu_s", "gpu_s")),
        f"{mean('peak_memory_gib'):.1f}",
        *(f"{mean(k):,.0f}" for k in ("judge_calls", "reward_model_calls")),
    ]


def show(spec: MeasureSpec, value: float, signed: bool = False) -> str:
    """A measure's value in its unit."""
    sign = "+" if signed else ""
    if spec.unit == "share":
        return f"{100 * value:{sign}.0f}" + (" pp" if signed else "%")
    return f"{value:{sign}.2f}"


def _cell(spec: MeasureSpec, measure: Mapping[str, Any] | None) -> str:
    if measure is None:
        return "–"
    text = show(spec, measure["value"])
    if measure["low"] is not None:
        text += f" [{show(spec, measure['low'])}, {show(spec, measure['high'])}]"
    return text
