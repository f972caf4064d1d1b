"""`repo-ray scale`: another number of actors while a run goes on."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from repo_ray.cli.attach import TIMEOUT_S, AddressOption, RunOption, attach, read_status
from repo_ray.cli.console import fail

KINDS = ("rollout", "reward_model", "judge", "rules")


def scale(
    kind: Annotated[str, typer.Argument(help=f"Pool: {', '.join(KINDS)}.")],
    replicas: Annotated[int, typer.Argument(min=0, help="Actors wanted.")],
    run: RunOption,
    address: AddressOption = None,
) -> None:
    """Change the number of actors of a pool while the run goes on.

    Actors that are no longer wanted finish the calls that they have. A pool with `autoscale` goes
    on from the new number: its policy changes it again when calls wait too long or actors are
    not needed. A number outside of its bounds is refused.
    """
    if kind not in KINDS:
        fail(f"unknown pool {kind!r}: expected one of {', '.join(KINDS)}")
    control = attach(run, address)  # before ray is imported
    import ray

    pool = read_status(control).get("pools", {}).get(kind)
    if pool is not None and pool["bounds"] is not None:
        fewest, most = pool["bounds"]
        if not fewest <= replicas <= most:
            fail(f"{kind} scales itself between {fewest} and {most} actors ({kind}.pool.autoscale)")
    ray.get(control.request_scale.remote(kind, replicas), timeout=TIMEOUT_S)
    limit = time.monotonic() + TIMEOUT_S
    while time.monotonic() < limit:
        pool = read_status(control).get("pools", {}).get(kind)
        if pool is not None and pool["wanted"] == replicas:
            typer.echo(f"{kind}: {replicas} wanted, {pool['ready']} ready, the rest are starting")
            return
        time.sleep(0.5)
    fail(f"the run did not take up the request within {TIMEOUT_S:g} s; is it still starting?")
