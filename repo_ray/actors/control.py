"""The run's mailbox: other processes find it by run id, ask for scaling, and read the status."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

log = logging.getLogger(__name__)

CONTROL = "control"
#: The label by which Ray itself names each node.
NODE_ID = "ray.io/node-id"
#: Seconds for an answer, beyond what it was asked to wait; then it counts as lost.
ANSWER_S = 30.0
#: A driver gives so many signs of life in the time after which it counts as frozen.
SIGNS = 5


def namespace(run_name: str) -> str:
    """The Ray namespace that holds all actors of a run."""
    return f"repo_ray.{run_name}"


@ray.remote
class ControlActor:
    """Holds requests until the controller fetches them, and the last status it reported.

    It is also the driver's watchdog: once it has had a sign of life, it kills the process
    `driver` of its own node after `silence_s` without one. A frozen driver would hold all of the
    run's actors for ever; when it is gone, they end, and the run can be resumed.
    """

    def __init__(self, driver: int, silence_s: float) -> None:
        self._requests: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self._status: dict[str, Any] = {}
        self._driver, self._silence_s = driver, silence_s
        self._heard = 0.0
        self._watch: asyncio.Task[None] | None = None

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

    async def beat(self) -> None:
        """The driver's sign of life."""
        self._heard = time.monotonic()
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._await_silence())

    async def _await_silence(self) -> None:
        while time.monotonic() - self._heard < self._silence_s:
            await asyncio.sleep(self._silence_s / SIGNS)
        log.critical(
            "the driver (process %d) has given no sign of life for %g s and is killed: "
            "submit the job again with --resume",
            *(self._driver, self._silence_s),
        )
        os.kill(self._driver, signal.SIGKILL)


class Mailbox:
    """The controller's end. A control actor that is lost or silent is replaced, with the loss of
    the requests in it alone: the run does not depend on it.
    """

    def __init__(self, run_name: str, silence_s: float, answer_s: float = ANSWER_S) -> None:
        """Creates the control actor. Raises ValueError if the run is already active.

        `silence_s`: see `ControlActor`; it counts from the first `keep_beating`.
        """
        self._run_name = run_name
        self._silence_s, self._answer_s = silence_s, answer_s
        self._actor: ActorHandle | None = self._start()

    async def next_request(self, timeout_s: float) -> tuple[str, int] | None:
        """The oldest scaling request (pool, actors), or None after `timeout_s`."""
        request: tuple[str, int] | None = await self._ask(
            "next_request", timeout_s, wait_s=timeout_s
        )
        return request

    async def report(self, status: dict[str, Any]) -> None:
        """Leaves the status where other processes read it."""
        await self._ask("report", status)

    async def keep_beating(self) -> None:
        """Gives signs of life until it is cancelled."""
        while True:
            await self._ask("beat")
            await asyncio.sleep(self._silence_s / SIGNS)

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    async def _ask(self, method: str, *arguments: Any, wait_s: float = 0.0) -> Any:
        """The answer, which may take `wait_s` longer than others; None where there is none."""
        actor = self._actor
        if actor is None:
            await asyncio.sleep(wait_s)
        else:
            answer = getattr(actor, method).remote(*arguments)
            try:
                return await asyncio.wait_for(answer, wait_s + self._answer_s)
            except (RayError, TimeoutError) as error:
                log.warning("the control actor is lost and replaced: %r", error)
                ray.kill(actor)
        if self._actor is actor:  # else another call has noticed it too
            try:
                self._actor = self._start()
            except ValueError:  # the lost one still has the name: the next call tries again
                self._actor = None
        return None

    def _start(self) -> ActorHandle:
        # On the driver's node: Ray puts an actor that reserves nothing on any node, and that one
        # could be lost while the run goes on.
        return ControlActor.options(  # type: ignore[attr-defined]
            name=CONTROL,
            namespace=namespace(self._run_name),
            num_cpus=0,
            max_concurrency=100,
            label_selector={NODE_ID: ray.get_runtime_context().get_node_id()},
        ).remote(os.getpid(), self._silence_s)


def find_control(run_name: str) -> ActorHandle:
    """The control actor of an active run. Raises LookupError."""
    try:
        return ray.get_actor(CONTROL, namespace=namespace(run_name))
    except ValueError:
        raise LookupError(f"no active run named {run_name!r} on this Ray cluster") from None
