"""`report.html`: one self-contained page that says what a run did and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from repo_ray.evaluation.measures import Row, compute_differences, compute_measures
from repo_ray.evaluation.report_examples import examples
from repo_ray.evaluation.report_hacking import hacking_view
from repo_ray.evaluation.report_pools import pool_rows
from repo_ray.evaluation.report_view import (
    accounting,
    chart_cards,
    measure_table,
    phase_times,
    publications,
    run_facts,
    verdict,
)

#: Column names of a run's files as the page shows them.
TITLES = {"warm_start": "warm start", "repo": "REPO"}


@dataclass(frozen=True)
class ReportData:
    """What the page is made of; all of it can be read back from the run folder.

    `summary` is `summary.json`. Read where present, left out where not: `name`, `model`,
    `backends` and `software` (name -> text), `hardware`, `config`, `seed`, `steps`,
    `reductions` (list of text: what was made smaller than the paper, and to what), `ledger`
    (`training.accounting.Ledger.state`), `canary` (engine -> {`engine_moved`, `peft_moved`}), `seconds` (phase ->
    seconds), `tokens_per_s` (`rollout`, `learner`), `peak_memory_gib`, `adapters`
    (`learner`: {version, digest}; `engines`: list of {engine, version, digest, ...}).

    `metrics` are the rows of `metrics.jsonl`. `columns` maps a column's title to the rows of its
    `evaluation-<column>.parquet`, in display order; the last column is what was trained, the one
    before it what it is compared with. `gold_curve` comes from `evaluate.gold_curve`. `heldout`
    are the rows of all checks on held-out prompts (`hacking.HELDOUT_SCHEMA`), `samples` those of
    training (`records.TRAJECTORIES_SCHEMA`, columns of tokens left out), `n` is `enhancement.n`.
    """

    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Sequence[Row]]
    gold_curve: Sequence[Mapping[str, float]] = ()
    resamples: int = 1000
    seed: int = 0
    heldout: Sequence[Row] = ()
    samples: Sequence[Row] = ()
    n: float = 100.0


def write_report(path: Path, data: ReportData) -> None:
    """Writes the page. Reply texts are untrusted: everything is escaped by the template."""
    path.write_text(render(data), encoding="utf-8")


def render(data: ReportData) -> str:
    """The page as text."""
    data = replace(data, columns={TITLES.get(t, t): rows for t, rows in data.columns.items()})
    titles = list(data.columns)
    measures = {t: compute_measures(data.columns[t], data.resamples, data.seed) for t in titles}
    differences = (
        compute_differences(
            data.columns[titles[-1]], data.columns[titles[-2]], data.resamples, data.seed
        )
        if len(titles) >= 2
        else {}
    )
    pushes = publications(data.metrics)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        name=str(data.summary.get("name", "run")),
        titles=titles,
        verdict=verdict(data.summary, data.metrics, titles, measures, differences, pushes),
        charts=chart_cards(data.metrics, data.gold_curve),
        table=measure_table(titles, measures, differences),
        compared=titles[-2:] if len(titles) >= 2 else [],
        resamples=data.resamples,
        hacking=hacking_view(data.metrics, data.heldout, data.samples, data.n),
        examples=examples(data.columns),
        facts=run_facts(data.summary),
        phases=phase_times(data.summary),
        software=list(dict(data.summary.get("software", {})).items()),
        reductions=[str(r) for r in data.summary.get("reductions", [])],
        accounting=accounting(data.summary, data.metrics),
        pools=pool_rows(data.metrics),
        pushes=pushes,
    )
