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

from repo_ray.actors.members import PoolError
from repo_ray.actors.pool import ActorPool, CallTimeoutError
from repo_ray.config.pool import PoolConfig

NAMESPACE = "pool-test"


@ray.remote
class Worker:
    def __init__(self, fail_start: bool = False, start_s: float = 0.0) -> None:
        if fail_start:
            raise ValueError("no such model")
        self._start_s = start_s

    async def ready(self) -> None:
        await asyncio.sleep(self._start_s)

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


def make_pool(
    worker: Callable[[str], dict[str, Any]] = lambda name: {}, on_ready: Any = None, **settings: Any
) -> ActorPool:
    """`worker` gives an actor's constructor arguments by its name."""
    return ActorPool(
        "worker",
        NAMESPACE,
        PoolConfig(**{"cpus": 0.1, "timeout_s": 20.0, **settings}),
        lambda name, options: Worker.options(**options).remote(**worker(name)),
        on_ready=on_ready,
    )


def with_pool(body: Callable[[ActorPool], Awaitable[Any]], **arguments: Any) -> Any:
    async def run() -> Any:
        pool = make_pool(**arguments)
        try:
            await pool.start()
            return await body(pool)
        finally:
            await pool.stop()

    return asyncio.run(run())


async def until(reached: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    limit = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < limit, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(0.05)


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


def test_what_does_not_answer_a_broadcast_in_time_is_replaced_and_left_out() -> None:
    async def body(pool: ActorPool) -> None:
        assert len(await pool.broadcast("echo", 1)) == 2
        assert await pool.broadcast("echo", 2, 30.0) == {}
        await until(lambda: pool.stats().ready == 2, "both are replaced")
        assert set(await pool.broadcast("echo", 3)) == {"worker-2", "worker-3"}
        assert (pool.stats().restarts, pool.stats().timeouts) == (2, 2)

    with_pool(body, replicas=2, timeout_s=1.0)


def test_a_constructor_that_raises_fails_the_start_with_its_reason() -> None:
    async def body(pool: ActorPool) -> None: ...

    with pytest.raises(PoolError, match=r"worker-0 could not start: .*ValueError: no such model"):
        with_pool(body, replicas=1, worker=lambda name: {"fail_start": True})


def test_scaling_up_and_down_loses_no_call() -> None:
    async def body(pool: ActorPool) -> None:
        calls = [asyncio.ensure_future(pool.call("echo", i, 0.2)) for i in range(30)]
        pool.scale(3)
        await until(lambda: pool.stats().ready == 3, "new actors are ready")
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
        pool.scale(2)
        await asyncio.sleep(4)
        stats = pool.stats()
        assert (stats.ready, stats.starting, stats.restarts) == (1, 1, 0)
        assert (await pool.call("echo", 1))[0] == 1

    with_pool(body, replicas=1, resources={"slot": 1}, start_timeout_s=3.0)


def test_an_actor_that_dies_while_it_drains_loses_no_call() -> None:
    async def body(pool: ActorPool) -> None:
        calls = [asyncio.ensure_future(pool.call("echo", i, 1.0)) for i in range(9)]
        await asyncio.sleep(0.2)
        pool.scale(1)
        assert sorted(pool.stats().members.values()) == ["draining", "draining", "ready"]
        ray.kill(ray.get_actor("worker-2", namespace=NAMESPACE))
        results = await asyncio.gather(*calls)
        assert [value for value, _ in results] == list(range(9))
        stats = pool.stats()
        assert (stats.calls, stats.requeued, stats.restarts) == (9, 3, 0)
        assert set(stats.members) == {"worker-0"}

    with_pool(body, replicas=3, max_in_flight=3)


def test_actors_scaled_away_while_they_start_are_neither_failures_nor_restarts() -> None:
    async def body(pool: ActorPool) -> None:
        pool.scale(4)
        pool.scale(1)
        assert pool.stats().members == {"worker-0": "ready"}
        assert (await pool.call("echo", 1, 1.0))[0] == 1
        assert pool.stats().members == {"worker-0": "ready"}
        assert pool.stats().restarts == 0

    def slow(name: str) -> dict[str, Any]:
        return {"start_s": 0.0 if name == "worker-0" else 60.0}

    with_pool(body, replicas=1, worker=slow)


def test_a_pool_scaled_down_while_it_starts_keeps_the_actors_that_are_ready() -> None:
    async def run() -> None:
        pool = make_pool(lambda name: {"start_s": 0.0 if name == "worker-2" else 60.0}, replicas=3)
        try:
            starting = asyncio.ensure_future(pool.start())
            await until(lambda: pool.stats().ready == 1, "worker-2 is ready")
            pool.scale(1)
            await asyncio.wait_for(starting, 5)
            assert pool.stats().members == {"worker-2": "ready"}
            assert (await pool.call("echo", 1))[0] == 1
        finally:
            await pool.stop()

    asyncio.run(run())


def test_an_actor_that_is_found_wrong_when_ready_ends_the_pool() -> None:
    async def wrong(member: Any) -> None:
        raise LookupError(f"{member.name} has another adapter")

    async def body(pool: ActorPool) -> None: ...

    with pytest.raises(PoolError, match="worker-0 could not start: LookupError: worker-0 has"):
        with_pool(body, replicas=1, on_ready=wrong)


def test_a_newcomer_that_cannot_start_is_given_up_where_the_policy_may() -> None:
    async def body(pool: ActorPool) -> None:
        pool.scale(3)
        await until(lambda: pool.stats().wanted == 1, "both newcomers are given up")
        stats = pool.stats()
        assert (stats.restarts, stats.members) == (0, {"worker-0": "ready"})
        assert (await pool.call("echo", 1))[0] == 1

    def broken(name: str) -> dict[str, Any]:
        return {"fail_start": name != "worker-0"}

    with_pool(body, replicas=1, worker=broken, autoscale={"max": 3})


def test_the_pool_grows_when_calls_wait_and_shrinks_when_they_no_longer_do() -> None:
    async def body(pool: ActorPool) -> None:
        calls = [asyncio.ensure_future(pool.call("echo", i, 0.5)) for i in range(16)]
        await until(lambda: pool.stats().wanted == 3, "calls wait longer than a second")
        results = await asyncio.gather(*calls)
        assert [value for value, _ in results] == list(range(16))
        assert pool.stats().queue_s > 1.0
        assert 0.0 < pool.stats().busy_share <= 1.0
        await until(lambda: pool.stats().ready == 3, "the new actors are ready")

        async def trickle() -> None:
            while True:
                await pool.call("echo", 0, 0.1)

        trickling = asyncio.ensure_future(trickle())
        await until(lambda: pool.stats().wanted == 1, "one actor is enough")
        trickling.cancel()
        assert (pool.stats().restarts, pool.stats().requeued) == (0, 0)

    scaling = {"max": 3, "queue_target_s": 1, "cooldown_s": 2}
    with_pool(body, replicas=1, max_in_flight=1, autoscale=scaling)


def test_background_work_that_raises_is_logged_and_fails_the_pool(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken() -> None:
        raise LookupError("no such load")

    async def body(pool: ActorPool) -> None:
        pool._members.launch(broken())
        await until(lambda: pool._failure is not None, "the pool has failed")
        with pytest.raises(PoolError, match=r"pool worker: its background .* no such load"):
            await pool.call("echo", 1)

    with_pool(body, replicas=1)
    record = next(r for r in caplog.records if "background work failed" in r.message)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_a_pool_whose_actors_cannot_be_created_again_fails_instead_of_hanging() -> None:
    names: list[str] = []

    def worker(name: str) -> dict[str, Any]:
        names.append(name)
        if len(names) > 1:
            raise LookupError("no adapter to start with")
        return {}

    async def body(pool: ActorPool) -> None:
        [member] = pool._members.all
        ray.kill(member.handle)
        pool._members.launch(pool._members.check(member))
        await until(lambda: pool._failure is not None, "the pool has failed")
        with pytest.raises(PoolError, match="no adapter to start with"):
            await pool.call("echo", 1)

    with_pool(body, worker=worker, replicas=1)
