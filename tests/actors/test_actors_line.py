"""Calls that travel together: each keeps its own result, exception, time-out and end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError, RayTaskError

from repo_ray.actors.line import BatchedLine, DirectLine, batched, line_to


@ray.remote
class Plain:
    async def ping(self) -> None: ...


@ray.remote
@batched
class Worker:
    def __init__(self) -> None:
        self._cancelled = 0

    async def ping(self) -> None: ...

    async def echo(self, value: Any, delay_s: float = 0.0) -> Any:
        try:
            await asyncio.sleep(delay_s)
        except asyncio.CancelledError:
            self._cancelled += 1
            raise
        return value

    async def cancelled(self) -> int:
        return self._cancelled

    async def fail(self, what: str) -> Any:
        class MisfitError(Exception):
            """Pickled without a word, and not to be put together again."""

            def __init__(self, row: int, column: int) -> None:
                super().__init__(f"row {row}, column {column}")

        if what == "lock":
            return threading.Lock()
        if what == "held":
            raise OSError("held", threading.Lock())
        raise LookupError(what) if what != "misfit" else MisfitError(1, 2)

    async def die(self) -> None:
        os._exit(1)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False)
    yield
    ray.shutdown()


def with_line(body: Callable[[BatchedLine], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        line = line_to(Worker.options(num_cpus=0, max_concurrency=4).remote())
        assert isinstance(line, BatchedLine)
        try:
            return await body(line)
        finally:
            line.kill()

    return asyncio.run(run())


class Counted:
    """An actor's handle that counts the Ray calls."""

    def __init__(self, handle: Any) -> None:
        self.calls = 0
        self._handle = handle

    def __getattr__(self, method: str) -> Any:
        self.calls += 1
        return getattr(self._handle, method)


def test_only_a_batched_class_has_a_batched_line() -> None:
    handle = Plain.options(num_cpus=0).remote()
    assert isinstance(line_to(handle), DirectLine)
    ray.kill(handle)


def test_calls_of_one_turn_are_one_ray_call_and_answers_come_to_the_right_callers() -> None:
    async def body(line: BatchedLine) -> int:
        await line.call("ping", (), 30.0)
        counted = line._handle = Counted(line._handle)
        calls = (line.call("echo", (i, 0.05), 10.0) for i in range(200))
        assert await asyncio.gather(*calls) == list(range(200))
        return counted.calls

    # One to send them; results that are late for the first answer take another.
    assert with_line(body) <= 10


def test_a_slow_call_holds_up_no_other() -> None:
    async def body(line: BatchedLine) -> None:
        began = time.monotonic()
        slow = asyncio.ensure_future(line.call("echo", ("slow", 20.0), 60.0))
        assert await line.call("echo", ("fast",), 10.0) == "fast"
        assert await line.call("echo", ("later",), 10.0) == "later"
        assert time.monotonic() - began < 15.0
        assert not slow.done()
        slow.cancel()

    with_line(body)


def test_a_call_over_its_time_is_given_up_in_the_actor_and_no_other_is() -> None:
    async def body(line: BatchedLine) -> None:
        await line.call("ping", (), 60.0)  # the actor is up: the call begins within its time
        other = asyncio.ensure_future(line.call("echo", (2, 5.0), 30.0))
        with pytest.raises(TimeoutError):
            await line.call("echo", (1, 60.0), 2.0)
        assert await other == 2
        assert await line.call("cancelled", (), 10.0) == 1
        assert line._open == {}

    with_line(body)


def test_each_call_fails_by_itself() -> None:
    async def body(line: BatchedLine) -> list[Any]:
        calls = [
            line.call("echo", (1,), 10.0),
            line.call("fail", ("row 7",), 10.0),
            line.call("fail", ("lock",), 10.0),
            line.call("fail", ("misfit",), 10.0),
            line.call("fail", ("held",), 10.0),
            line.call("echo", (threading.Lock(),), 10.0),
            line.call("nothing", (), 10.0),
            line.call("echo", (2,), 10.0),
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    one, row, lock, misfit, held, argument, nothing, two = with_line(body)
    assert (one, two) == (1, 2)
    assert isinstance(row, LookupError)
    assert isinstance(row, RayTaskError)
    assert str(row).splitlines()[-1] == "LookupError: row 7"
    assert isinstance(lock, RayTaskError)
    assert isinstance(misfit, RayTaskError)
    assert isinstance(held, RayTaskError)
    assert "OSError" in str(held)
    assert isinstance(argument, TypeError)
    assert not isinstance(argument, RayTaskError)  # it never left
    assert isinstance(nothing, AttributeError)


def test_a_death_fails_all_calls_and_those_that_come_later() -> None:
    async def body(line: BatchedLine) -> None:
        calls = [line.call("echo", (i, 60.0), 60.0) for i in range(3)]
        ended = await asyncio.gather(*calls, line.call("die", (), 60.0), return_exceptions=True)
        assert all(isinstance(e, RayActorError) for e in ended)
        with pytest.raises(RayActorError):
            await line.call("echo", (1,), 60.0)

    with_line(body)


def test_a_reference_arrives_as_what_it_stands_for() -> None:
    async def body(line: BatchedLine) -> Any:
        return await line.call("echo", (ray.put({"a": 1}),), 10.0)

    assert with_line(body) == {"a": 1}
