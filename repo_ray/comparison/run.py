"""Runs a comparison and writes its table from the saved files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repo_ray.comparison.methods import METHODS
from repo_ray.comparison.plan import entries, shared_config
from repo_ray.comparison.report import write_page
from repo_ray.comparison.runner import ANNOTATION, BASE, WARM_START, Runner, Trained
from repo_ray.comparison.settings import Comparison, load_comparison
from repo_ray.comparison.table import (
    Column,
    agreement_markdown,
    comparison_json,
    cost_markdown,
    markdown,
)
from repo_ray.data.reader import read_hidden
from repo_ray.evaluation.evaluate import evaluation_path, judge_samples, load_evaluation
from repo_ray.evaluation.hacking import SOURCES, agreement
from repo_ray.evaluation.negotiations import load_negotiations, negotiations_path
from repo_ray.pipeline.cluster import connect, run_there
from repo_ray.pipeline.preflight import check_inputs
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run import exit_status, log_to
from repo_ray.pipeline.run_folder import RunFolder, open_run_folder, write_json
from repo_ray.training.metrics import read_metrics
from repo_ray.training.trajectories import read_trajectories


def run(path: Path, changes: Mapping[str, Any], address: str | None) -> int:
    """The exit status, as `pipeline.run.exit_status`."""

    def job(display: Display) -> None:
        comparison = load_comparison(path, changes)
        config = shared_config(comparison)
        check_inputs(config)
        entries(comparison, config, {}, {"sft": 1, "dpo": 1})  # refuses a bad one before anything
        folder = open_run_folder(config, resume=True)
        log_to(folder.root)
        with folder.locked():
            display.console.print(f"[bold]comparison[/] {comparison.name} in {folder.root.parent}")
            display.console.print(f"  {connect(config, folder, address)}")
            trained = run_there(
                config, address, display, Runner(comparison, folder, display).main()
            )
            page = write_results(comparison, folder, trained)
        content = page.with_suffix(".md").read_text(encoding="utf-8")
        display.console.print(content, markup=False)
        display.console.print(f"[bold]report[/]  {page}")

    return exit_status(job)


def write_results(comparison: Comparison, shared: RunFolder, trained: Sequence[Trained]) -> Path:
    """`comparison.json`, `.md` and `.html` beside the runs; returns the page's path."""
    evaluation = shared_config(comparison).evaluation
    by_method: dict[str, list[Trained]] = defaultdict(list)
    for one in trained:
        by_method[one.entry.method.name].append(one)
    columns = [
        Column(
            key,
            title,
            [load_evaluation(shared.evaluation, key)],
            negotiations=[_negotiations(shared, key)],
        )
        for key, title in (
            (BASE, "Base"),
            (WARM_START, "Warm start"),
            (ANNOTATION, "Gold annotation"),
        )
        if evaluation_path(shared.evaluation, key).exists()
    ]
    columns += [
        Column(
            name,
            METHODS[name].title,
            [load_evaluation(shared.evaluation, one.entry.name) for one in runs],
            [one.cost for one in runs],
            [_negotiations(shared, one.entry.name) for one in runs],
        )
        for name, runs in by_method.items()
    ]
    content = comparison_json(columns, comparison.reference, evaluation.bootstrap, 0) | {
        "name": comparison.name,
        "budget": comparison.budget,
        "seeds": list(comparison.seeds),
        "curves": {one.entry.name: _curve(one) for one in trained},
        "agreement": _agreements(shared, trained),
    }
    root = shared.root.parent
    write_json(root / "comparison.json", content)
    parts = (markdown(content), agreement_markdown(content), cost_markdown(content))
    text = "\n\n".join(part for part in parts if part) + "\n"
    (root / "comparison.md").write_text(text, encoding="utf-8")
    write_page(root / "comparison.html", content)
    return root / "comparison.html"


def _negotiations(shared: RunFolder, column: str) -> list[dict[str, Any]]:
    """The column's whole negotiations; [] where none were played."""
    if not negotiations_path(shared.evaluation, column).exists():
        return []
    return load_negotiations(shared.evaluation, column)


def _agreements(shared: RunFolder, trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """By RL method, over all samples of its training: what its reward knew of the gold score."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    columns = ("prompt_id", "messages", "context", "reply", *SOURCES)
    for one in trained:
        if one.entry.method.trainer == "rl":
            prompts = Path(one.entry.config.data.prompts or shared.data / "prompts.parquet")
            hidden = {k: json.dumps(v) for k, v in read_hidden(prompts, "prompts").items()}
            samples = read_trajectories(one.folder.trajectories, columns)
            rows[one.entry.method.name] += judge_samples(samples, hidden)
    return [
        {
            "title": METHODS[name].title,
            "samples": len(found),
            **{source: asdict(agreement(found, source, resamples=200)) for source in SOURCES},
        }
        for name, found in rows.items()
        if found
    ]


def _curve(one: Trained) -> list[dict[str, float]]:
    """Gold score (of the built-in task), reward and length of the training's own replies by step; []
    if supervised."""
    file = one.folder.root / "summary.json"
    if not file.exists():
        return []
    summary = json.loads(file.read_text(encoding="utf-8"))
    gold = {int(p["step"]): p["gold_score"] for p in summary["gold_curve"]}
    return [
        {
            "step": row["step"],
            **({"gold_score": gold[row["step"]]} if row["step"] in gold else {}),
            "reward": row["reward/total"],
            "tokens": row["reply/tokens"],
        }
        for row in read_metrics(one.folder.root)
        if row.get("reward/total") is not None
    ]
