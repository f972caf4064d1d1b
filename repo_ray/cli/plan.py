"""`repo-ray plan`: what would run where and how fast, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from repo_ray.cli.console import ConfigOption, OverridesArgument, fail, user_errors
from repo_ray.config import ConfigError, load_config
from repo_ray.planning import ArchitectureError, Cluster, PlanError, plan, read_architecture
from repo_ray.planning.forecast import Setting, forecast
from repo_ray.planning.forecast_report import (
    describe_errors,
    describe_forecast,
    describe_splits,
)
from repo_ray.planning.report import describe
from repo_ray.planning.speeds import CPU, H100, read_speeds
from repo_ray.planning.split import Split, best_split
from repo_ray.planning.work import Load


def command(
    config: ConfigOption = None,
    overrides: OverridesArgument = None,
    nodes: Annotated[int, typer.Option(min=1, help="Equal nodes.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per node.")] = 0,
    gpu_memory_gib: Annotated[float, typer.Option(min=0, help="Memory of one GPU.")] = 80.0,
    cpus: Annotated[
        float | None, typer.Option(min=0, help="CPUs per node; left out: this machine's.")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(min=0, help="Main memory per node; left out: this machine's.")
    ] = None,
    speeds: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with your machine's speeds; left out: an H100's (assumed) with --gpus, "
            "two CPU cores' (measured) without.",
            dir_okay=False,
        ),
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option(min=1, help="Mean tokens of a prompt; left out: the limit.")
    ] = None,
    reply_tokens: Annotated[
        float | None, typer.Option(min=1, help="Mean tokens of a reply; left out: the limit.")
    ] = None,
    gpus_total: Annotated[
        str | None,
        typer.Option(
            metavar="N,...", help="Find the best division of so many GPUs; a row for each."
        ),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(help="Predict this finished run, and compare.", file_okay=False),
    ] = None,
    write_speeds: Annotated[
        Path | None,
        typer.Option(help="With --from-run: write speeds fitted to the run.", dir_okay=False),
    ] = None,
) -> None:
    """Print what a config would run where and how fast, memory included; refuse what cannot fit."""
    here = Cluster.of_this_machine()
    cluster = Cluster(
        nodes=nodes,
        cpus=here.cpus if cpus is None else cpus,
        memory_gib=here.memory_gib if memory_gib is None else memory_gib,
        gpus=gpus,
        gpu_memory_gib=gpu_memory_gib if gpus else 0.0,
    )
    if write_speeds and not from_run:
        fail("--write-speeds: needs --from-run")
    with user_errors(ArchitectureError, PlanError, ConfigError):
        known = read_speeds(speeds) if speeds else H100 if gpus else CPU
        if from_run:
            from repo_ray.planning.measured import calibrated, read_run

            if config or overrides:
                fail("--from-run: the run has its own config")
            measured = read_run(from_run)
            settings, load = measured.config, measured.load
        else:
            settings = load_config(config, overrides or ())
            most = Load.limits(settings)
            load = Load(prompt_tokens or most.prompt, reply_tokens or most.reply, most.longest)
            _check(load, most)
        architecture = read_architecture(settings.model.path)
        if gpus_total:
            if not gpus:
                fail("--gpus-total: say how many GPUs a node has (--gpus)")
            rows: list[tuple[int, Split | PlanError]] = []
            for total in _numbers(gpus_total):
                try:
                    rows.append(
                        (total, best_split(settings, architecture, cluster, known, load, total))
                    )
                except PlanError as error:
                    rows.append((total, error))
            typer.echo(describe_splits(settings, rows, known))
            return
        planned = plan(settings, architecture, cluster)
        typer.echo(describe(settings, planned))
        if settings.dialogue is not None:
            typer.echo("\nnote: the time of a step is predicted for single replies only")
            return
        setting = Setting(settings, architecture, cluster, known, load)
        predicted = forecast(setting)
        typer.echo("\n" + describe_forecast(settings, predicted, known))
        if from_run:
            typer.echo("\n" + describe_errors(measured.errors(predicted), measured.steps))
            if write_speeds:
                fitted = calibrated(known, measured, predicted)
                write_speeds.write_text(yaml.safe_dump(fitted.model_dump(), sort_keys=False))


def _check(load: Load, most: Load) -> None:
    if load.prompt > most.prompt:
        fail(f"--prompt-tokens: more than model.max_prompt_tokens ({most.prompt:g})")
    if load.reply > most.reply:
        fail(f"--reply-tokens: more than sampling.max_new_tokens ({most.reply:g})")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        fail(f"--gpus-total {text!r}: expected numbers such as 8,16,32")
    return numbers
