"""How calls reach an actor: each by itself, or all that are made together as one.

A Ray call costs the driver about half a millisecond of its one thread, whatever it says. Where an
actor is `batched`, all calls that its pool makes in one turn of the event loop travel as one Ray
call, and results that are there within `LINGER_S` of each other as one. Each keeps its own
time-out, result and exception, and a slow call holds up no other: results are handed out as
calls end, not as they began.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import traceback
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import ray
from ray import cloudpickle
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

#: Results wait so long for others to travel with: little beside a sample or a score.
LINGER_S = 0.01

#: A call's number and, pickled each by itself, its method with arguments or its result: what
#: cannot be pickled then fails alone.
Item = tuple[int, bytes]

ActorClass = TypeVar("ActorClass", bound=type)


class Line(Protocol):
    """To one actor."""

    async def call(self, method: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        """What the method returns or raises.

        Raises `TimeoutError`, after which the actor has been told to give the call up, and Ray's
        error where the actor is dead.
        """

    def kill(self) -> None:
        """Ends the actor; its calls fail."""


def line_to(handle: ActorHandle | Line) -> Line:
    """Batched where the actor's class is. What is no actor's handle brings its line itself."""
    if not isinstance(handle, ActorHandle):
        return handle
    return BatchedLine(handle) if hasattr(handle, "take_calls") else DirectLine(handle)


class DirectLine:
    """Every call is a Ray call."""

    def __init__(self, handle: ActorHandle) -> None:
        self._handle = handle

    async def call(self, method: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        ref = getattr(self._handle, method).remote(*args)
        try:
            return await asyncio.wait_for(ref, timeout_s)
        except TimeoutError:
            ray.cancel(ref)
            raise
        except RayTaskError as error:
            # Ray wraps the method's exception; callers want the exception itself.
            raise error.as_instanceof_cause() from None

    def kill(self) -> None:
        ray.kill(self._handle)


class BatchedLine:
    """Calls of one turn of the event loop travel together; so do results.

    The only line to its actor: a second one would take the first one's results.
    """

    def __init__(self, handle: ActorHandle) -> None:
        self._direct = DirectLine(handle)
        self._handle = handle
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._calls: list[Item] = []
        self._given_up: list[int] = []
        self._flushing = False
        self._receiver: asyncio.Task[None] | None = None

    async def call(self, method: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        # Ray resolves a reference for the method, and does that itself.
        if any(isinstance(arg, ray.ObjectRef) for arg in args):
            return await self._direct.call(method, args, timeout_s)
        number = next(self._numbers)
        self._calls.append((number, cloudpickle.dumps((method, args))))
        future = self._open[number] = asyncio.get_running_loop().create_future()
        self._flush_soon()
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            self._given_up.append(number)
            self._flush_soon()
            raise
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        finally:
            self._open.pop(number, None)

    def kill(self) -> None:
        self._direct.kill()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        calls, self._calls = self._calls, []
        given_up, self._given_up = self._given_up, []
        self._handle.take_calls.remote(calls, given_up)
        if self._receiver is None or self._receiver.done():
            self._receiver = asyncio.ensure_future(self._receive())

    async def _receive(self) -> None:
        """Hands results out until no call is open."""
        while self._open:
            try:
                items: Sequence[Item] = await self._handle.call_results.remote()
            except RayError as error:  # the actor is dead, and all its calls with it
                for future in self._open.values():
                    if not future.done():
                        future.set_exception(error)
                return
            for number, pickled in items:
                future = self._open.get(number)
                if future is not None and not future.done():
                    _settle(future, pickled)


def _settle(future: asyncio.Future[Any], pickled: bytes) -> None:
    try:
        raised, value = cloudpickle.loads(pickled)
    except Exception as error:  # such as a class that is not to be had here
        raised, value = True, _wrapped("a result", error)
    if raised:
        future.set_exception(value)
    else:
        future.set_result(value)


class Desk:
    """The actor's end: carries calls out side by side, and hands out what has ended."""

    def __init__(self, target: object) -> None:
        self._target = target
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ended: list[Item] = []
        self._some = asyncio.Event()

    def take(self, calls: Sequence[Item], given_up: Sequence[int]) -> None:
        for number, pickled in calls:
            task = self._running[number] = asyncio.ensure_future(self._run(number, pickled))
            task.add_done_callback(functools.partial(self._over, number))
        for number in given_up:
            if number in self._running:
                self._running[number].cancel()

    def _over(self, number: int, task: asyncio.Task[None]) -> None:
        del self._running[number]

    async def results(self) -> list[Item]:
        """Waits for at least one."""
        await self._some.wait()
        await asyncio.sleep(LINGER_S)
        self._some.clear()
        ended, self._ended = self._ended, []
        return ended

    async def _run(self, number: int, pickled: bytes) -> None:
        method = "call"
        try:
            method, args = cloudpickle.loads(pickled)
            answer = cloudpickle.dumps((False, await getattr(self._target, method)(*args)))
        except asyncio.CancelledError:
            answer = cloudpickle.dumps((True, TaskCancelledError()))
        except Exception as error:
            try:
                answer = cloudpickle.dumps((True, _wrapped(method, error)))
            except Exception:  # one that holds what cannot be pickled: its words can
                plain = RuntimeError(f"{type(error).__name__}: {error}")
                answer = cloudpickle.dumps((True, _wrapped(method, plain)))
        self._ended.append((number, answer))
        self._some.set()


def _wrapped(method: str, error: Exception) -> RayTaskError:
    """As Ray wraps what a method raises, in its `except` clause."""
    return RayTaskError(method, traceback.format_exc(), error)


def batched(actor: ActorClass) -> ActorClass:
    """Below `@ray.remote`: lets calls to the actor's coroutine methods travel together."""

    @ray.method(num_returns=0)
    async def take_calls(self: Any, calls: Sequence[Item], given_up: Sequence[int]) -> None:
        _desk(self).take(calls, given_up)

    async def call_results(self: Any) -> list[Item]:
        return await _desk(self).results()

    actor.take_calls, actor.call_results = take_calls, call_results  # type: ignore[attr-defined]
    return actor


def _desk(actor: Any) -> Desk:
    if "_desk" not in vars(actor):
        actor._desk = Desk(actor)
    desk: Desk = actor._desk
    return desk
