"""`repo-ray evaluate`: the paper's measures for the models of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_ray.cli.console import OverridesArgument, user_errors


def command(
    run: Annotated[Path, typer.Argument(help="Run folder.", file_okay=False)],
    overrides: OverridesArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the rows; default: RUN/again.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join; default: an own, embedded one.")
    ] = None,
) -> None:
    """Sample every model of a run on the evaluation dialogues and let the gold evaluator judge.

    Overrides change how much is evaluated: evaluation.turns_per_dialogue=null takes every turn.
    """
    import asyncio

    from rich.console import Console
    from rich.table import Table

    from repo_ray.config import load_config
    from repo_ray.evaluation.measures import MEASURES, compute_differences, compute_measures
    from repo_ray.pipeline.cluster import connect
    from repo_ray.pipeline.evaluate_run import evaluate_run
    from repo_ray.pipeline.progress import Display
    from repo_ray.pipeline.run import exit_status
    from repo_ray.serving.run_models import RunFolderError, open_run

    with user_errors(RunFolderError):
        models = open_run(run)
        if "repo" not in models.adapters:
            raise RunFolderError(f"{run}: the run has no trained adapter yet")
    config = load_config(run / "config.yaml", overrides or ())
    target = (out or run / "again").resolve()
    target.mkdir(parents=True, exist_ok=True)

    def job(display: Display) -> None:
        display.console.print(connect(config, models.folder, address))
        rows = asyncio.run(evaluate_run(models, config, target, display))
        resamples, seed = config.evaluation.bootstrap, config.run.seed
        found = {name: compute_measures(own, resamples, seed) for name, own in rows.items()}
        *_, before, last = rows
        gaps = compute_differences(rows[last], rows[before], resamples, seed)
        table = Table("measure", *found, f"{last} - {before}", title=str(target))
        for spec in MEASURES:
            if any(spec.name in measures for measures in found.values()):
                cells = [
                    f"{measures[spec.name].value:.3f}" if spec.name in measures else ""
                    for measures in found.values()
                ]
                gap = gaps.get(spec.name)
                shown = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if gap else ""
                table.add_row(spec.label, *cells, shown)
        Console().print(table)

    raise SystemExit(exit_status(job))
