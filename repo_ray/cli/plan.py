"""`repo-ray plan`: what would run where, before anything is started."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from repo_ray.cli.console import ConfigOption, OverridesArgument, user_errors
from repo_ray.config import load_config
from repo_ray.planning import ArchitectureError, Cluster, PlanError, plan, read_architecture
from repo_ray.planning.report import describe


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
) -> None:
    """Print what a config would run where, memory included; refuse what cannot fit."""
    settings = load_config(config, overrides or ())
    here = machine()
    cluster = Cluster(
        nodes=nodes,
        cpus=here.cpus if cpus is None else cpus,
        memory_gib=here.memory_gib if memory_gib is None else memory_gib,
        gpus=gpus,
        gpu_memory_gib=gpu_memory_gib if gpus else 0.0,
    )
    with user_errors(ArchitectureError, PlanError):
        typer.echo(
            describe(settings, plan(settings, read_architecture(settings.model.path), cluster))
        )


def machine() -> Cluster:
    """This machine as a cluster of one node, its GPUs left out."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Cluster(nodes=1, cpus=float(os.cpu_count() or 1), memory_gib=round(memory, 1))
