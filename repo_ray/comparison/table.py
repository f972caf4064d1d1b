"""The comparison's table, made from saved files alone: measures by column, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from repo_ray.comparison.cost import Cost
from repo_ray.evaluation.bootstrap import Measure, MeasureSpec, Row
from repo_ray.evaluation.hacking import SOURCES
from repo_ray.evaluation.measures import MEASURES, compare_columns
from repo_ray.evaluation.negotiations import NEGOTIATION_MEASURES
from repo_ray.evaluation.report_view import UNJUDGED_NUMBERS

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
    """One line of the table: a method with the rows of each of its seeds, or a fixed reference.

    `negotiations` are rows of `evaluation.negotiations`, per seed like `runs`; [] where none
    were played.
    """

    key: str
    title: str
    runs: Sequence[Sequence[Row]]
    costs: Sequence[Cost] = ()
    negotiations: Sequence[Sequence[Row]] = ()


def comparison_json(
    columns: Sequence[Column], reference: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Everything that the table and the page show: the content of `comparison.json`.

    `differences` are the reference method's measure minus the column's, paired by dialogue;
    `by_seed` each seed's own value. Without the reference among the columns, the last one is it.
    """
    keys = [column.key for column in columns]
    reference = reference if reference in keys else keys[-1]
    runs = {column.key: column.runs for column in columns}
    parts = [compare_columns(runs, reference, MEASURES, resamples, seed)]
    talks = {c.key: c.negotiations for c in columns if any(c.negotiations)}
    if reference in talks:
        parts.append(compare_columns(talks, reference, NEGOTIATION_MEASURES, resamples, seed))

    def of(key: str, tables: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
        return {name: value for table in tables for name, value in table.get(key, {}).items()}

    return {
        "reference": reference,
        "columns": [
            {
                "key": column.key,
                "title": column.title,
                "seeds": len(column.runs),
                "measures": {
                    k: asdict(m) for k, m in of(column.key, [p.measures for p in parts]).items()
                },
                "differences": {
                    k: _negated(m)
                    for k, m in of(column.key, [p.differences for p in parts]).items()
                },
                "by_seed": of(column.key, [p.by_seed for p in parts]),
                "costs": [asdict(cost) for cost in column.costs],
                "paper": dict(PAPER.get(column.key, {})),
            }
            for column in columns
        ],
    }


def _negated(measure: Measure) -> dict[str, Any]:
    """The difference the other way round."""
    low, high = measure.high, measure.low
    return asdict(measure) | {
        "value": -measure.value,
        "low": None if low is None else -low,
        "high": None if high is None else -high,
    }


def headline(content: Mapping[str, Any]) -> list[MeasureSpec]:
    """The measures of `HEADLINE`; for a task that the gold evaluator does not know, those that are
    left on the report's first screen."""
    found = {name for column in content["columns"] for name in column["measures"]}
    names = HEADLINE if found.intersection(HEADLINE) else UNJUDGED_NUMBERS
    return [spec for name in names for spec in MEASURES if spec.name == name]


def markdown(content: Mapping[str, Any]) -> str:
    """The table for a terminal, a README or a paper."""
    specs = headline(content)
    lines = [
        "| | " + " | ".join(spec.label for spec in specs) + " |",
        "|---|" + "---:|" * len(specs),
    ]
    for column in content["columns"]:
        cells = [_cell(spec, column["measures"].get(spec.name)) for spec in specs]
        lines.append(f"| {column['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def agreement_markdown(content: Mapping[str, Any]) -> str:
    """Spearman's correlation of each part of the reward with the gold score; "" without RL."""
    found = content["agreement"]
    if not found:
        return ""
    lines = ["| | " + " | ".join(SOURCES.values()) + " |", "|---|" + "---:|" * len(SOURCES)]
    for row in found:
        cells = [agreement_cell(row[source]) for source in SOURCES]
        lines.append(f"| {row['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def agreement_cell(found: Mapping[str, Any]) -> str:
    """One correlation with its interval; a dash where the source says the same of all."""
    if found["spearman"] is None:
        return "–"
    return f"{found['spearman']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


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
