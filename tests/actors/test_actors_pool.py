"""The pool against real Ray actors: dispatch, limits, death, scaling."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import ray

from repo_ray.actors.pool import ActorPool, CallTimeoutError, Member, PoolError
from repo_ray.config.pool import PoolConfig

NAMESPACE = "pool-test"


@ray.remote
class Worker:
    def __init__(self, fail_start: bool = False) -> None:
        if fail_start:
            raise ValueError("no such model")

    async def ready(self) -> None: ...

    async def ping(self) -> None: ...

    async def echo(self, value: int, delay_s: float = 0.0) -> tuple[int, int]:
        await asyncio.sleep(delay_s)
        return value, os.getpid()

    async def die_unless(self, path: str) -> str:
        """Kills its own process the first time it is called with `path`."""
        if not os.path.exists(path):
            with open(path, "w"):
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def raise_error(self) -> None:
        raise LookupError("row 7 is missing")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=8,
        resources={"slot": 1},
        namespace=NAMESPACE,
        include_dashboard=False,
    )
    yield
    ray.shutdown()


def with_pool(
    body: Callable[[ActorPool], Awaitable[Any]],
    *,
    fail_start: bool = False,
    on_ready: Callable[[Member], Awaitable[None]] | None = None,
    **settings: Any,
) -> Any:
    config = PoolConfig(**{"cpus": 0.1, "timeout_s": 20.0, **settings})

    async def run() -> Any:
        pool = ActorPool(
            "worker",
            NAMESPACE,
            config,
            lambda name, options: Worker.options(**options).remote(fail_start),
            on_ready=on_ready,
        )
        try:
            await pool.start()
            return await body(pool)
        finally:
            await pool.stop()

    return asyncio.run(run())


def test_calls_are_spread_over_the_least_loaded_actors() -> None:
    async def body(pool: ActorPool) -> list[int]:
        results = await asyncio.gather(*(pool.call("echo", i, 0.3) for i in range(6)))
        assert [value for value, _ in results] == list(range(6))
        return [pid for _, pid in results]

    pids = with_pool(body, replicas=3, max_in_flight=2)
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2, 2]


def test_calls_beyond_the_capacity_wait_in_order() -> None:
    async def body(pool: ActorPool) -> tuple[int, list[int]]:
        done: list[int] = []

        async def one(value: int) -> None:
            await pool.call("echo", value, 0.05)
            done.append(value)

        tasks = [asyncio.ensure_future(one(i)) for i in range(5)]
        await asyncio.sleep(0.02)
        queue = pool.stats().queue
        await asyncio.gather(*tasks)
        return queue, done

    queue, done = with_pool(body, replicas=1, max_in_flight=1)
    assert queue == 4
    assert done == list(range(5))


def test_a_call_whose_actor_dies_is_finished_by_another(tmp_path: Any) -> None:
    async def body(pool: ActorPool) -> None:
        assert await pool.call("die_unless", str(tmp_path / "dead")) == "alive"
        stats = pool.stats()
        assert (stats.restarts, stats.requeued, stats.calls) == (1, 1, 1)
        assert set(stats.members) == {"worker-1"}

    with_pool(body, replicas=1)


def test_a_call_that_kills_every_actor_is_given_up() -> None:
    async def body(pool: ActorPool) -> None:
        with pytest.raises(PoolError, match="3 actors died in a row"):
            await pool.call("die")
        assert (await pool.call("echo", 5))[0] == 5

    with_pool(body, replicas=1)


def test_a_call_outlives_the_loss_of_all_actors_at_once() -> None:
    """As when their node is lost: the first death was not the call's doing, nor the next two."""

    async def body(pool: ActorPool) -> None:
        found = await asyncio.gather(*(pool.call("echo", i, 0.5) for i in range(3)))
        pids = {pid for _, pid in found}
        assert len(pids) == 3
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert (await pool.call("echo", 7))[0] == 7

    with_pool(body, replicas=3, max_in_flight=1, max_restarts=1)  # one for each of them


def test_the_pool_stops_after_too_many_restarts() -> None:
    async def body(pool: ActorPool) -> None:
        with pytest.raises(PoolError, match="more than 1 restarts"):
            await pool.call("die")

    with_pool(body, replicas=1, max_restarts=1)


def test_errors_of_the_method_reach_the_caller_unchanged() -> None:
    async def body(pool: ActorPool) -> None:
        with pytest.raises(LookupError, match="row 7 is missing"):
            await pool.call("raise_error")
        assert pool.stats().restarts == 0

    with_pool(body, replicas=1)


def test_a_slow_call_times_out_and_the_actor_lives_on() -> None:
    async def body(pool: ActorPool) -> None:
        with pytest.raises(CallTimeoutError, match=r"worker-0.echo took longer than 0.5 s"):
            await pool.call("echo", 1, 30.0)
        assert (await pool.call("echo", 2))[0] == 2
        assert pool.stats().timeouts == 1

    with_pool(body, replicas=1, timeout_s=0.5)


def test_a_constructor_that_raises_fails_the_start_with_its_reason() -> None:
    async def body(pool: ActorPool) -> None: ...

    with pytest.raises(PoolError, match=r"worker-0 could not start: .*ValueError: no such model"):
        with_pool(body, replicas=1, fail_start=True)


def test_scaling_up_and_down_loses_no_call() -> None:
    async def body(pool: ActorPool) -> None:
        calls = [asyncio.ensure_future(pool.call("echo", i, 0.2)) for i in range(30)]
        pool.scale(3)
        limit = time.monotonic() + 30
        while pool.stats().ready < 3:
            assert time.monotonic() < limit, "new actors did not come up"
            await asyncio.sleep(0.05)
        late = [asyncio.ensure_future(pool.call("echo", i, 0.2)) for i in range(30, 60)]
        await asyncio.sleep(0.1)
        pool.scale(1)
        results = await asyncio.gather(*calls, *late)
        assert [value for value, _ in results] == list(range(60))
        assert len({pid for _, pid in results}) == 3
        assert pool.stats().restarts == 0
        assert set(pool.stats().members) == {"worker-0"}

    with_pool(body, replicas=1, max_in_flight=4)


def test_actors_are_found_by_name() -> None:
    async def body(pool: ActorPool) -> None:
        handle = ray.get_actor("worker-0", namespace=NAMESPACE)
        assert (await handle.echo.remote(3))[0] == 3

    with_pool(body, replicas=1)


def test_a_pool_without_a_place_for_its_actors_fails_with_the_reason() -> None:
    async def body(pool: ActorPool) -> None: ...

    with pytest.raises(PoolError) as error:
        with_pool(body, replicas=1, labels={"repo-ray/role": "nowhere"}, start_timeout_s=1.0)
    assert "worker-0 found no place within 1 s" in str(error.value)
    assert "needs 0.1 CPU on a node with repo-ray/role=nowhere" in str(error.value)
    assert "no node has these labels" in str(error.value)


def test_a_newcomer_that_waits_for_a_place_uses_up_no_restarts() -> None:
    async def body(pool: ActorPool) -> None:
        pool.config = pool.config.model_copy(update={"start_timeout_s": 0.3})
        pool.scale(2)
        await asyncio.sleep(1.5)
        stats = pool.stats()
        assert (stats.ready, stats.starting, stats.restarts) == (1, 1, 0)
        assert (await pool.call("echo", 1))[0] == 1

    with_pool(body, replicas=1, resources={"slot": 1})


def test_an_actor_that_on_ready_refuses_ends_the_pool() -> None:
    async def body(pool: ActorPool) -> None: ...

    async def refuse(member: Member) -> None:
        raise ValueError(f"{member.name} serves another adapter")

    with pytest.raises(PoolError, match="could not start: worker-0 serves another adapter"):
        with_pool(body, replicas=1, on_ready=refuse)
