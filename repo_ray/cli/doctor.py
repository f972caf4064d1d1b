"""`repo-ray doctor`: is this machine, or this cluster, ready for a run?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from repo_ray.cli.console import ConfigOption, OverridesArgument
from repo_ray.config import Config, load_config
from repo_ray.doctor.check import Check
from repo_ray.doctor.machine import (
    resources,
    shared_memory,
    system_library,
    threads,
    token_auth,
    versions,
)
from repo_ray.planning import Cluster

_LOCKS = Path(__file__).parents[2] / "docker"


def command(
    config: ConfigOption = None,
    overrides: OverridesArgument = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to check; left out: a local one is started.")
    ] = None,
    engine: Annotated[
        bool, typer.Option(help="Start a real engine and push a canary adapter to it.")
    ] = True,
    timeout_s: Annotated[float, typer.Option(min=1, help="Limit of each call.")] = 300.0,
    lock: Annotated[
        Path | None, typer.Option(help="Lock to compare with; left out: the checkout's.")
    ] = None,
) -> None:
    """Check versions, threads, memory, authentication, judge, placement and a canary push."""
    settings = load_config(config, overrides or ())
    failed = False
    for check in _checks(settings, address, engine, timeout_s, lock):
        typer.echo(str(check))
        failed |= check.status == "fail"
    if failed:
        raise typer.Exit(1)


def _checks(
    config: Config, address: str | None, engine: bool, timeout_s: float, lock: Path | None
) -> Iterator[Check]:
    device = "gpu" if config.rollout.pool.gpus else "cpu"
    yield versions(lock or _LOCKS / f"requirements-{device}.lock", _LOCKS / "requirements.in")
    yield system_library(config)
    yield threads(config)
    yield shared_memory()
    yield token_auth(Path.home())
    if address is None and device == "cpu":
        yield resources(config, Cluster.of_this_machine())
    from repo_ray.doctor.judge import judge

    yield judge(config)
    yield from _on_ray(config, address, engine, timeout_s)


def _on_ray(config: Config, address: str | None, engine: bool, timeout_s: float) -> Iterator[Check]:
    from repo_ray.doctor import cluster

    try:
        with cluster.connected(address):
            placed = cluster.placement(config)
            yield placed
            if engine and placed.status == "ok":
                yield cluster.canary(config, timeout_s)
            elif engine:
                yield Check("canary", "warn", "not tried: the engine may find no place")
    except ConnectionError as error:
        yield Check(
            "ray", "fail", f"no cluster at {address}: {error}", "Check --address and the token"
        )
