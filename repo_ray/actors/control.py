"""The run's mailbox: other processes find it by run id, ask for scaling, and read the status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTROL = "control"
#: The label by which Ray itself names each node.
NODE_ID = "ray.io/node-id"
#: Seconds for an answer, beyond what it was asked to wait; then it counts as lost.
ANSWER_S = 30.0


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


class Mailbox:
    """The controller's end. A control actor that is lost or silent is replaced, with the loss of
    the requests in it alone: the run does not depend on it.
    """

    def __init__(self, run_name: str, answer_s: float = ANSWER_S) -> None:
        """Creates the control actor. Raises ValueError if the run is already active."""
        self._run_name = run_name
        self._answer_s = answer_s
        self._actor: ActorHandle | None = _start_control(run_name)

    async def next_request(self, timeout_s: float) -> tuple[str, int] | None:
        """The oldest scaling request (pool, actors), or None after `timeout_s`."""
        if self._actor is None:
            await asyncio.sleep(timeout_s)
            self._replace()
            return None
        ref: Awaitable[tuple[str, int] | None] = self._actor.next_request.remote(timeout_s)
        return await self._answer(ref, timeout_s + self._answer_s)

    async def report(self, status: dict[str, Any]) -> None:
        """Leaves the status where other processes read it."""
        if self._actor is not None:
            await self._answer(self._actor.report.remote(status), self._answer_s)

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    async def _answer(self, ref: Awaitable[T], limit_s: float) -> T | None:
        try:
            return await asyncio.wait_for(ref, limit_s)
        except (RayError, TimeoutError) as error:
            log.warning("the control actor is lost and replaced: %r", error)
            self.close()
            self._replace()
            return None

    def _replace(self) -> None:
        try:
            self._actor = _start_control(self._run_name)
        except ValueError:  # the lost one still has the name: the next call tries again
            self._actor = None


def _start_control(run_name: str) -> ActorHandle:
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
