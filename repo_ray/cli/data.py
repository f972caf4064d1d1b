"""`repo-ray data`: build the negotiation data, check one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_ray.cli.console import fail

app = typer.Typer(help="Build the negotiation data sets, or check your own.", no_args_is_help=True)


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.", file_okay=False)],
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    preferences: Annotated[int, typer.Option(min=1, help="Preference rows (paper: 6,632).")] = 6632,
) -> None:
    """Build every data set of the negotiation task as Parquet."""
    from repo_ray.negotiation.datasets import build_datasets

    for name, count in build_datasets(out, seed, preferences).items():
        typer.echo(f"{count:6}  {out / name}.parquet")


@app.command("validate")
def validate(
    path: Annotated[Path, typer.Argument(help="A .parquet or .jsonl file.")],
    kind: Annotated[str, typer.Option(help="prompts, preferences, sft, verdicts or dialogues.")],
) -> None:
    """Name the row and field of every fault; exit status 2 if there is any."""
    from repo_ray.data.schema import KINDS
    from repo_ray.data.validation import validate as faults_of

    if kind not in KINDS:
        fail(f"--kind {kind}: expected one of {', '.join(KINDS)}")
    faults = faults_of(path, kind)
    for fault in faults:
        typer.echo(str(fault))
    if faults:
        fail(f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    typer.echo(f"{path}: no faults")
