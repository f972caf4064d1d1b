"""Finding a run that is going on, for the commands that talk to it."""

from __future__ import annotations

import json
import logging
import os
import sys
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
TIMEOUT_S = 30.0
#: Where Ray keeps the token of a cluster with authentication.
TOKEN = Path.home() / ".ray" / "auth_token"


def attach(run: str, address: str | None) -> Any:
    """The run's control actor. To be called before ray is imported, which reads its variables."""
    if environment("RAY_AUTH_MODE") is None and TOKEN.is_file():
        assert "ray" not in sys.modules, "Ray would not see the variable"
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


def read_status(control: Any, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What the controller last reported (`training.loop.Controller.status`); empty before."""
    import ray

    return ray.get(control.status.remote(), timeout=timeout_s)
