"""The actors of a pool: how they come up, are watched, replaced and let go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import RayError

from repo_ray.actors.failures import own_error, short
from repo_ray.actors.line import Line, line_to
from repo_ray.actors.placement import PlacementError, actor_options, why_waiting
from repo_ray.actors.roster import Member, Roster
from repo_ray.config.pool import PoolConfig
from repo_ray.planning.nodes import Reservation

log = logging.getLogger(__name__)

#: How often idle actors are asked for a sign of life, and how long they may take (seconds).
PING_EVERY_S = 10.0
PING_TIMEOUT_S = 30.0

#: `spawn(name, options)` creates one actor with these Ray options and today's constructor
#: arguments. Every actor has `ready()`, which returns once it can work, and `ping()`. Members that
#: share a process are given by what stands for a handle there and carries their calls.
Spawn = Callable[[str, dict[str, Any]], ActorHandle | Line]


class PoolError(RuntimeError):
    """The pool cannot do its work any more; the message says why."""


@dataclass(frozen=True)
class Hooks:
    """What the members of a pool tell it.

    `changed()`: actors or slots came or went. `fail(error)`: the pool cannot go on.
    `give_up(wanted)`: whether the pool goes on without an actor that does not come up.
    """

    changed: Callable[[], None]
    fail: Callable[[PoolError], None]
    give_up: Callable[[int], bool]


class Members:
    """All actors of a pool and their life.

    `wanted` actors are kept alive until `stop`. `started` is set once as many were ready, or when
    that has failed.
    `on_ready` as for `pool.ActorPool`.
    """

    def __init__(
        self,
        kind: str,
        namespace: str,
        config: PoolConfig,
        spawn: Spawn,
        env_vars: dict[str, str],
        on_ready: Callable[[Member], Awaitable[None]] | None,
        hooks: Hooks,
    ) -> None:
        self._kind = kind
        self._namespace = namespace
        self._config = config
        self._spawn = spawn
        self._env_vars = env_vars
        self._on_ready = on_ready
        self._hooks = hooks
        self.roster = Roster(config.max_in_flight)
        self.wanted = config.replicas
        self.started = asyncio.Event()
        self.restarts = 0
        self._restarts_per_actor = 0.0
        self._start_failures = 0
        self._next_index = 0
        self._over = False
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def all(self) -> Sequence[Member]:
        """Those that are not dead, oldest first."""
        return self.roster.all

    def start(self) -> None:
        """Spawns what is wanted, and asks for signs of life from then on."""
        self.fill()
        self.launch(self._watch())

    async def stop(self) -> None:
        """Ends every actor and all background work."""
        self._over = True
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for member in self.all:
            self.retire(member)

    def scale(self, replicas: int) -> None:
        """Wants another number; those no longer wanted finish what they have."""
        self.wanted = replicas
        kept = [m for state in ("ready", "starting") for m in self.all if m.state == state]
        for member in kept[replicas:]:
            self.roster.enter(member, "draining")
            if member.in_flight == 0:
                self.retire(member)
        self.fill()
        if self.roster.count("ready") >= replicas:
            self.started.set()

    def fill(self) -> None:
        """Spawns actors until as many exist as are wanted."""
        while not self._over and self.roster.count("starting", "ready") < self.wanted:
            name = f"{self._kind}-{self._next_index}"
            self._next_index += 1
            options: dict[str, Any] = {
                "name": name,
                "namespace": self._namespace,
                **actor_options(self._config),
                "max_restarts": 0,
                "max_concurrency": self._config.max_in_flight + 8,
                "runtime_env": {"env_vars": self._env_vars},
            }
            handle = self._spawn(name, options)
            member = Member(name, handle, line_to(handle))
            self.roster.add(member)
            self.launch(self._bring_up(member))

    async def _bring_up(self, member: Member) -> None:
        limit = self._config.start_timeout_s
        ready: asyncio.Future[Any] = asyncio.ensure_future(member.handle.ready.remote())
        try:
            while not (await asyncio.wait({ready}, timeout=limit))[0]:
                await self._wait_for_place(member)
            await ready
            if self._on_ready is not None:
                await self._on_ready(member)
        except Exception as error:
            if member.state != "dead":  # else it is no longer wanted
                self._failed_start(member, error)
            return
        finally:
            ready.cancel()
        if member.state == "starting":
            self._start_failures = 0
            self.roster.enter(member, "ready")
            log.info("pool %s: %s is ready", self._kind, member.name)
        if self.roster.count("ready") >= self.wanted:
            self.started.set()
        self._hooks.changed()

    async def _wait_for_place(self, member: Member) -> None:
        """Lets an actor that no node has room for wait on, as long as others do the work.

        Raises `TimeoutError` for one that has its place, and so takes too long to start, and
        `PlacementError` where no other is there or the policy can do without it.
        """
        place = Reservation.of(self._kind, 1, self._config)
        why = await asyncio.to_thread(why_waiting, member.handle, place)
        if not why:
            raise TimeoutError
        scaling = self._config.autoscale
        others = self.started.is_set() and self.roster.count("ready") > 0
        if not others or (scaling and self.wanted > scaling.min):
            limit = self._config.start_timeout_s
            raise PlacementError(f"found no place within {limit:g} s: {why}")
        log.warning("pool %s: %s waits for a place: %s", self._kind, member.name, why)

    def _failed_start(self, member: Member, error: Exception) -> None:
        self._start_failures += 1
        at_start = not self.started.is_set()
        nowhere = isinstance(error, PlacementError)
        # What else than a failed call `on_ready` raises is final: it found the actor wrong. At
        # the start of a run, an error of the actor's own code would come again, so it is final
        # at once; a death or a time-out gets a second chance. Later, a newcomer that fails only
        # uses up restarts, or is given up where the policy can do without: the others go on.
        wrong = not isinstance(error, RayError | TimeoutError | PlacementError)
        again = at_start and (own_error(error) or self._start_failures > 1)
        if wrong or again or (nowhere and (at_start or not self.roster.count("ready"))):
            late = f"not ready within {self._config.start_timeout_s:g} s"
            reason = late if isinstance(error, TimeoutError) else short(error)
            what = str(error) if nowhere else f"could not start: {reason}"
            self._fail(f"{member.name} {what}")
        elif not at_start and self._hooks.give_up(self.wanted):
            self.wanted -= 1
            self.roster.enter(member, "draining")  # neither replaced nor counted as a restart
            log.warning("pool %s: gave up %s (%s)", self._kind, member.name, short(error))
        self.lost(member, error)

    def lost(self, member: Member, error: BaseException) -> None:
        """Replaces an actor that died; only the first who notices does the work."""
        if member.state == "dead":
            return
        draining = member.state == "draining"
        self.roster.enter(member, "dead")
        member.line.kill()
        if draining:
            return
        self.restarts += 1
        self._restarts_per_actor += 1 / max(1, self.wanted)
        log.warning("pool %s: %s is lost (%s)", self._kind, member.name, short(error))
        if self._restarts_per_actor > self._config.max_restarts:
            self._fail(
                f"pool {self._kind}: more than {self._config.max_restarts} restarts per actor; "
                f"last error: {short(error)}"
            )
        self.fill()

    def retire(self, member: Member) -> None:
        """Ends an actor that is no longer wanted."""
        self.roster.enter(member, "dead")
        member.line.kill()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            await asyncio.gather(*(self.check(m) for m in self.all if m.state == "ready"))

    async def check(self, member: Member) -> bool:
        """Whether the actor lives; one that does not is replaced."""
        try:
            await asyncio.wait_for(member.handle.ping.remote(), PING_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            self.lost(member, error)
            return False
        return True

    def launch(self, work: Awaitable[Any]) -> None:
        """Runs `work` in the background until it ends or `stop` is called. If it raises, the pool
        fails: nobody would do that work any more."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("pool %s: its background work failed", self._kind, exc_info=error)
            if not self._over:
                self._fail(f"pool {self._kind}: its background work failed: {short(error)}")

    def _fail(self, reason: str) -> None:
        self._over = True  # none is replaced any more
        self.started.set()
        self._hooks.fail(PoolError(reason))
