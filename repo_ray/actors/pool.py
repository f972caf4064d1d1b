"""The one mechanism that spawns, dispatches to, restarts and scales actors of every kind.

A pool lives in the driver's event loop. Its actors are named, so that the Ray dashboard and
other processes find them, and have `max_restarts=0`: only the pool restarts, because only it
knows what a new actor must be given (the current adapter) and what was in flight.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from repo_ray.actors.autoscale import Autoscaler
from repo_ray.actors.failures import DEATH
from repo_ray.actors.load import TICK_S, LoadMeter, PoolStats
from repo_ray.actors.members import Hooks, Members, PoolError, Spawn
from repo_ray.actors.roster import Member
from repo_ray.config.pool import PoolConfig

log = logging.getLogger(__name__)

#: A call is handed to this many actors that die under it before it is called poisonous.
MAX_DEATHS_PER_CALL = 3


class CallTimeoutError(RuntimeError):
    """One call took longer than the pool's `timeout_s`."""


class ActorPool:
    """A pool of named Ray actors of one kind.

    `on_ready` runs after an actor reports ready and before it takes work; the rollout pool
    uses it to bring a late actor to the current adapter.
    """

    def __init__(
        self,
        kind: str,
        namespace: str,
        config: PoolConfig,
        spawn: Spawn,
        *,
        env_vars: dict[str, str] | None = None,
        on_ready: Callable[[Member], Awaitable[None]] | None = None,
    ) -> None:
        self.kind = kind
        self.config = config
        self._waiters: deque[tuple[asyncio.Future[Member], float]] = deque()
        self._admission = asyncio.Semaphore(config.max_queue)
        self._failure: PoolError | None = None
        self._finished_calls = 0
        self._requeued = 0
        self._timeouts = 0
        self._load = LoadMeter(time.monotonic())
        scaling = config.autoscale
        self._autoscaler = Autoscaler(scaling, config.max_in_flight) if scaling else None
        give_up = self._autoscaler.give_up if self._autoscaler else lambda wanted: False
        hooks = Hooks(self._dispatch, self._fail, give_up)
        self._members = Members(kind, namespace, config, spawn, env_vars or {}, on_ready, hooks)
        self._roster = self._members.roster

    # --- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Spawns all replicas and returns when they are ready. Raises `PoolError`."""
        self._members.start()
        self._members.launch(self._follow_load())
        if self._members.wanted:
            await self._members.started.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Ends every actor. Calls in flight fail."""
        await self._members.stop()
        self._fail(PoolError(f"pool {self.kind} is stopped"))

    def scale(self, replicas: int, reason: str = "asked for") -> None:
        """Sets the wanted number of actors; new ones join and surplus ones drain by themselves.

        With `autoscale`, the policy goes on from this number, and may change it within a second.
        """
        if replicas < 0:
            raise ValueError(f"pool {self.kind}: cannot scale to {replicas} actors")
        wanted = self._members.wanted
        log.info("pool %s: scaling from %d to %d actors: %s", self.kind, wanted, replicas, reason)
        self._members.scale(replicas)

    # --- work ---------------------------------------------------------------------------

    async def call(self, method: str, *args: Any) -> Any:
        """Runs `method` on the least loaded actor and returns its result.

        A call whose actor dies is handed to another one. Raises `CallTimeoutError`,
        `PoolError`, or what the method itself raised.
        """
        async with self._admission:
            deaths = 0
            while deaths < MAX_DEATHS_PER_CALL:
                member = await self._acquire()
                began = time.monotonic()
                try:
                    # The neighbours of a lost actor may have gone with their node: only one that
                    # was alive can die of the call.
                    if deaths and not await self._members.check(member):
                        continue
                    result = await member.line.call(method, args, self.config.timeout_s)
                    self._finished_calls += 1
                    return result
                except DEATH as error:
                    deaths += 1
                    self._requeued += 1
                    self._members.lost(member, error)
                except TimeoutError:
                    self._timeouts += 1
                    self._members.launch(self._members.check(member))
                    raise CallTimeoutError(
                        f"{member.name}.{method} took longer than {self.config.timeout_s:g} s"
                    ) from None
                finally:
                    self._load.ended(time.monotonic() - began)
                    self._release(member)
        raise PoolError(
            f"{self.kind}.{method}: {MAX_DEATHS_PER_CALL} actors died in a row under the same call"
        )

    async def broadcast(self, method: str, *args: Any) -> dict[str, Any]:
        """Runs `method` on every ready actor; results by actor name.

        An actor that dies meanwhile, or does not answer within `timeout_s`, is replaced and left
        out. What a method raises is raised here.
        """
        members = [m for m in self._members.all if m.state == "ready"]

        async def one(member: Member) -> tuple[str, Any] | None:
            try:
                return member.name, await member.line.call(method, args, self.config.timeout_s)
            except DEATH as error:
                self._members.lost(member, error)
                return None
            except TimeoutError:
                self._timeouts += 1
                late = f"{member.name}.{method} took longer than {self.config.timeout_s:g} s"
                await self._members.check(member)  # lets it clean up what hangs in it
                self._members.lost(member, CallTimeoutError(late))
                return None

        return dict(r for r in await asyncio.gather(*map(one, members)) if r is not None)

    def stats(self) -> PoolStats:
        return PoolStats(
            kind=self.kind,
            wanted=self._members.wanted,
            ready=self._roster.count("ready"),
            starting=self._roster.count("starting"),
            queue=len(self._waiters),
            in_flight=sum(m.in_flight for m in self._members.all),
            calls=self._finished_calls,
            requeued=self._requeued,
            timeouts=self._timeouts,
            restarts=self._members.restarts,
            queue_s=self._load.queue_s,
            busy_share=self._load.busy_share,
            max_queue=self.config.max_queue,
            longest_queue=self._load.longest_queue,
            longest_wait_s=self._load.longest_wait_s,
            busy_s=self._load.total_busy_s,
            able_s=self._load.total_able_s,
            bounds=(scaling.min, scaling.max) if (scaling := self.config.autoscale) else None,
            members={m.name: m.state for m in self._members.all},
        )

    # --- inside -------------------------------------------------------------------------

    async def _acquire(self) -> Member:
        """A slot on the least loaded actor, in the order of asking."""
        if self._failure is not None:
            raise self._failure
        waiter: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self._waiters.append((waiter, time.monotonic()))
        self._load.asked()
        self._dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(waiter.result())
            raise

    def _dispatch(self) -> None:
        """Hands free slots to those who wait."""
        while self._waiters and (member := self._roster.least_loaded()) is not None:
            waiter, asked = self._waiters.popleft()
            if waiter.done():  # cancelled while it waited
                continue
            self._load.began(time.monotonic() - asked)
            self._roster.take(member)
            waiter.set_result(member)
        self._observe()

    def _release(self, member: Member) -> None:
        self._roster.give(member)
        if member.in_flight == 0 and member.state == "draining":
            self._members.retire(member)
        self._dispatch()

    async def _follow_load(self) -> None:
        """Measures all the time and, with `autoscale`, sets the wanted number by the policy."""
        while True:
            await asyncio.sleep(TICK_S)
            self._observe()
            waiting = [asked for waiter, asked in self._waiters if not waiter.done()]
            now = time.monotonic()
            tick = self._load.tick(now, len(waiting), now - min(waiting, default=now))
            if self._autoscaler and self._members.started.is_set() and self._failure is None:
                decision = self._autoscaler.decide(tick, self._members.wanted)
                if decision.wanted != self._members.wanted:
                    self.scale(decision.wanted, decision.reason)

    def _observe(self) -> None:
        roster = self._roster
        self._load.observe(
            time.monotonic(), roster.able, roster.busy, roster.calls, len(self._waiters)
        )

    def _fail(self, error: PoolError) -> None:
        """Ends the pool: everybody who waits, now or later, gets the first error."""
        self._failure = self._failure or error
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(self._failure)
