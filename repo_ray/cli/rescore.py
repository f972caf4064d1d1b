"""`repo-ray rescore`: saved trajectories through changed rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_ray.cli.console import fail
from repo_ray.config import load_config


def command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    rubric: Annotated[Path | None, typer.Option(help="YAML rubric to try.")] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML rules to try.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Parquet of all rows.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Samples to show, furthest moved first.")] = 20,
) -> None:
    """Replay saved samples through another rubric or other rules: which change rank?"""
    saved, files = run / "config.yaml", sorted((run / "trajectories").glob("*.parquet"))
    if not saved.is_file() or not files:
        fail(f"{run}: not a run folder with trajectories (config.yaml, trajectories/*.parquet)")
    if rubric is None and rules is None:
        fail("nothing to try: give --rubric, --rules or both")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from repo_ray.rewards.judge.rubric import load_rubric
    from repo_ray.rewards.rescore import rescore
    from repo_ray.rewards.rules.sandbox import RuleRunner

    config = load_config(saved)
    runner = RuleRunner(rules, config.rules.time_limit_s) if rules else None
    try:
        result = rescore(
            pa.concat_tables(pq.read_table(file) for file in files),
            runner,
            load_rubric(rubric) if rubric else None,
            config.enhancement,
        )
    finally:
        if runner is not None:
            runner.close()
    moved = result.moved
    table = Table("step", "sample", "rank", "E_judge", "E_func", "reward", "reply")
    for row in moved.slice(0, show).to_pylist():
        table.add_row(
            str(row["step"]),
            row["sample_id"],
            f"{row['old_rank']} → {row['new_rank']}",
            *(f"{row['old_' + c]:.1f} → {row['new_' + c]:.1f}" for c in ("e_judge", "e_func")),
            f"{row['old_reward']:.2f} → {row['new_reward']:.2f}",
            Text(row["reply"]),
        )
    console = Console()
    console.print(table)
    failed = sum(1 for error in result.table["error"].to_pylist() if error)
    console.print(
        f"{moved.num_rows} of {result.table.num_rows} samples change rank within their step; "
        f"{failed} could not be rescored"
    )
    if result.unjudged:
        console.print(f"no saved verdicts on {', '.join(result.unjudged)}: they count nothing here")
    if out is not None:
        pq.write_table(result.table, out)
