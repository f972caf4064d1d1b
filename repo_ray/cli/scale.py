"""`repo-ray scale` and `repo-ray status`: talk to a run that is going on."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from repo_ray.cli.console import fail
from repo_ray.config import environment

RunOption = Annotated[
    str, typer.Option("--run", "-r", help="Run folder, or run id together with --address.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Ray cluster; default: the one in the run folder.")
]
KINDS = ("rollout", "reward_model", "judge", "rules")
TIMEOUT_S = 30.0
#: Where Ray keeps the token of a cluster with authentication.
TOKEN = Path.home() / ".ray" / "auth_token"


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
    import ray

    if kind not in KINDS:
        fail(f"unknown pool {kind!r}: expected one of {', '.join(KINDS)}")
    control = _attach(run, address)
    pool = _status(control).get("pools", {}).get(kind)
    if pool is not None and pool["bounds"] is not None:
        fewest, most = pool["bounds"]
        if not fewest <= replicas <= most:
            fail(f"{kind} scales itself between {fewest} and {most} actors ({kind}.pool.autoscale)")
    ray.get(control.request_scale.remote(kind, replicas), timeout=TIMEOUT_S)
    limit = time.monotonic() + TIMEOUT_S
    while time.monotonic() < limit:
        pool = _status(control).get("pools", {}).get(kind)
        if pool is not None and pool["wanted"] == replicas:
            typer.echo(f"{kind}: {replicas} wanted, {pool['ready']} ready, the rest are starting")
            return
        time.sleep(0.5)
    fail(f"the run did not take up the request within {TIMEOUT_S:g} s; is it still starting?")


def status(run: RunOption, address: AddressOption = None) -> None:
    """Show where a run is: step, accounting, and every pool's actors and queue."""
    from rich.console import Console
    from rich.table import Table

    state = _status(_attach(run, address))
    if not state:
        fail("the run has not reached its training yet")
    ledger = state["ledger"]
    console = Console(highlight=False)
    console.print(
        f"[bold]{state['run']}[/] step {state['step']} of {state['steps']}  {state['folder']}"
    )
    console.print(
        f"prompts issued {ledger['issued']}, consumed {ledger['consumed']}, "
        f"dropped {ledger['dropped'] or 0}, invalid scores {ledger['invalid'] or 0}"
    )
    columns = {"queue": "queue", "in_flight": "running", "calls": "calls", "restarts": "restarts"}
    table = Table("pool", "ready", *columns.values(), "actors")
    for kind, pool in state["pools"].items():
        ready = f"{pool['ready']} of {pool['wanted']}"
        table.add_row(kind, ready, *(str(pool[c]) for c in columns), " ".join(pool["members"]))
    console.print(table)


def _status(control: Any) -> dict[str, Any]:
    import ray

    return ray.get(control.status.remote(), timeout=TIMEOUT_S)


def _attach(run: str, address: str | None) -> Any:
    """The run's control actor."""
    if environment("RAY_AUTH_MODE") is None and TOKEN.is_file():
        os.environ["RAY_AUTH_MODE"] = "token"  # else Ray tries for 20 s without the token
    import ray

    from repo_ray.actors.control import find_control

    name = run
    file = Path(run) / "cluster.json"
    if file.is_file():
        cluster = json.loads(file.read_text(encoding="utf-8"))
        address, name = address or cluster["address"], cluster["run"]
    elif address is None:
        fail(f"{file} does not exist: give a run folder, or a run id with --address")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        return find_control(name)
    except (ConnectionError, LookupError) as error:
        fail(f"{error}" or f"no Ray cluster at {address}")
