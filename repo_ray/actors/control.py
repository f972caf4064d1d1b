"""The run's mailbox: other processes find it by run id, ask for scaling, and read the status."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.actor import ActorHandle

CONTROL = "control"
#: The label by which Ray itself names each node.
NODE_ID = "ray.io/node-id"


def namespace(run_name: str) -> str:
    """The Ray namespace that holds all actors of a run."""
    return f"repo_ray.{run_name}"


@ray.remote
class ControlActor:
    """Holds requests until the controller fetches them, and the last status it reported."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self._status: dict[str, Any] = {}

    async def request_scale(self, kind: str, replicas: int) -> None:
        await self._requests.put((kind, replicas))

    async def next_request(self, timeout_s: float) -> tuple[str, int] | None:
        """The oldest request, or None after `timeout_s`."""
        try:
            return await asyncio.wait_for(self._requests.get(), timeout_s)
        except TimeoutError:
            return None

    async def report(self, status: dict[str, Any]) -> None:
        self._status = status

    async def status(self) -> dict[str, Any]:
        return self._status


def start_control(run_name: str) -> ActorHandle:
    """Creates the run's control actor. Raises ValueError if the run is already active.

    It is on the driver's node: Ray puts an actor that reserves nothing on any node, and that one
    could be lost while the run goes on.
    """
    return ControlActor.options(  # type: ignore[attr-defined]
        name=CONTROL,
        namespace=namespace(run_name),
        num_cpus=0,
        max_concurrency=100,
        label_selector={NODE_ID: ray.get_runtime_context().get_node_id()},
    ).remote()


def find_control(run_name: str) -> ActorHandle:
    """The control actor of an active run. Raises LookupError."""
    try:
        return ray.get_actor(CONTROL, namespace=namespace(run_name))
    except ValueError:
        raise LookupError(f"no active run named {run_name!r} on this Ray cluster") from None
