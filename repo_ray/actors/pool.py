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
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from repo_ray.config.pool import PoolConfig

log = logging.getLogger(__name__)

#: How often idle actors are asked for a sign of life, and how long they may take (seconds).
PING_EVERY_S = 10.0
PING_TIMEOUT_S = 30.0
#: A call is handed to this many actors that die under it before it is called poisonous.
MAX_DEATHS_PER_CALL = 3

#: `spawn(name, options)` creates one actor with these Ray options and today's constructor
#: arguments. Every actor has `ready()`, which returns once it can work, and `ping()`.
Spawn = Callable[[str, dict[str, Any]], ActorHandle]


class PoolError(RuntimeError):
    """The pool cannot do its work any more; the message says why."""


class CallTimeoutError(RuntimeError):
    """One call took longer than the pool's `timeout_s`."""


@dataclass(eq=False)
class Member:
    """One actor of a pool."""

    name: str
    handle: ActorHandle
    state: Literal["starting", "ready", "draining", "dead"] = "starting"
    in_flight: int = 0
    calls: int = 0
    busy_s: float = 0.0
    busy_since: float = 0.0


@dataclass(frozen=True)
class PoolStats:
    """Counters since the pool started. `queue` and `in_flight` are of this moment."""

    kind: str
    wanted: int
    ready: int
    starting: int
    queue: int
    in_flight: int
    calls: int
    requeued: int
    timeouts: int
    restarts: int
    members: dict[str, str] = field(default_factory=dict)
    queue_s: float = 0.0
    busy_share: float = 0.0


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
        self._namespace = namespace
        self._spawn = spawn
        self._env_vars = env_vars or {}
        self._on_ready = on_ready
        self._members: list[Member] = []
        self._wanted = config.replicas
        self._next_index = 0
        self._waiters: deque[asyncio.Future[Member]] = deque()
        self._started = asyncio.Event()
        self._admission = asyncio.Semaphore(config.max_queue)
        self._background: set[asyncio.Task[None]] = set()
        self._failure: PoolError | None = None
        self._stopping = False
        self._finished_calls = 0
        self._requeued = 0
        self._timeouts = 0
        self._restarts = 0
        self._start_failures = 0

    # --- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Spawns all replicas and returns when they are ready. Raises `PoolError`."""
        self._fill()
        self._launch(self._watch())
        if self._wanted:
            await self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Ends every actor. Calls in flight fail."""
        self._stopping = True
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for member in list(self._members):
            self._retire(member)
        self._fail(PoolError(f"pool {self.kind} is stopped"))

    def scale(self, replicas: int) -> None:
        """Sets the wanted number of actors; new ones join and surplus ones drain by themselves."""
        if replicas < 0:
            raise ValueError(f"pool {self.kind}: cannot scale to {replicas} actors")
        log.info("pool %s: scaling from %d to %d actors", self.kind, self._wanted, replicas)
        self._wanted = replicas
        surplus = [m for m in self._members if m.state in ("starting", "ready")][replicas:]
        for member in surplus:
            member.state = "draining"
            if member.in_flight == 0:
                self._retire(member)
        self._fill()

    # --- work ---------------------------------------------------------------------------

    async def call(self, method: str, *args: Any) -> Any:
        """Runs `method` on the least loaded actor and returns its result.

        A call whose actor dies is handed to another one. Raises `CallTimeoutError`,
        `PoolError`, or what the method itself raised.
        """
        async with self._admission:
            for _ in range(MAX_DEATHS_PER_CALL):
                member = await self._acquire()
                try:
                    result = await self._invoke(member, method, args, self.config.timeout_s)
                    self._finished_calls += 1
                    return result
                except RayActorError as error:
                    self._requeued += 1
                    self._lost(member, error)
                except TimeoutError:
                    self._timeouts += 1
                    self._launch(self._check(member))
                    raise CallTimeoutError(
                        f"{member.name}.{method} took longer than {self.config.timeout_s:g} s"
                    ) from None
                finally:
                    self._release(member)
        raise PoolError(
            f"{self.kind}.{method}: {MAX_DEATHS_PER_CALL} actors died in a row under the same call"
        )

    async def broadcast(self, method: str, *args: Any) -> dict[str, Any]:
        """Runs `method` on every ready actor; results by actor name.

        An actor that dies meanwhile is restarted with current arguments and left out.
        What a method raises is raised here.
        """
        members = [m for m in self._members if m.state == "ready"]

        async def one(member: Member) -> tuple[str, Any] | None:
            try:
                return member.name, await self._invoke(member, method, args, self.config.timeout_s)
            except RayActorError as error:
                self._lost(member, error)
                return None
            except TimeoutError:
                raise CallTimeoutError(
                    f"{member.name}.{method} took longer than {self.config.timeout_s:g} s"
                ) from None

        return dict(r for r in await asyncio.gather(*map(one, members)) if r is not None)

    def stats(self) -> PoolStats:
        return PoolStats(
            kind=self.kind,
            wanted=self._wanted,
            ready=self._count("ready"),
            starting=self._count("starting"),
            queue=len(self._waiters),
            in_flight=sum(m.in_flight for m in self._members),
            calls=self._finished_calls,
            requeued=self._requeued,
            timeouts=self._timeouts,
            restarts=self._restarts,
            members={m.name: m.state for m in self._members},
        )

    # --- inside -------------------------------------------------------------------------

    def _fill(self) -> None:
        """Spawns actors until as many exist as are wanted."""
        while not self._stopping and self._count("starting", "ready") < self._wanted:
            name = f"{self.kind}-{self._next_index}"
            self._next_index += 1
            options: dict[str, Any] = {
                "name": name,
                "namespace": self._namespace,
                "num_cpus": self.config.cpus,
                "num_gpus": self.config.gpus,
                "resources": self.config.resources,
                "max_restarts": 0,
                "max_concurrency": self.config.max_in_flight + 8,
                "runtime_env": {"env_vars": self._env_vars},
            }
            member = Member(name, self._spawn(name, options))
            self._members.append(member)
            self._launch(self._bring_up(member))

    async def _bring_up(self, member: Member) -> None:
        limit = self.config.start_timeout_s
        try:
            await asyncio.wait_for(member.handle.ready.remote(), limit)
            if self._on_ready is not None:
                await self._on_ready(member)
        except (RayActorError, RayTaskError, TimeoutError) as error:
            # At the start of a run, an error of the actor's own code would come again, so it
            # is final at once; a death or a time-out gets a second chance. Later, a newcomer
            # that fails only uses up restarts: the others go on working.
            self._start_failures += 1
            own_error = isinstance(error, RayTaskError) or getattr(
                error, "actor_init_failed", False
            )
            if not self._started.is_set() and (own_error or self._start_failures > 1):
                reason = f"not ready within {limit:g} s"
                self._fail(
                    PoolError(
                        f"{member.name} could not start: "
                        + (reason if isinstance(error, TimeoutError) else _short(error))
                    )
                )
            self._lost(member, error)
            return
        if member.state == "starting":
            self._start_failures = 0
            member.state = "ready"
            log.info("pool %s: %s is ready", self.kind, member.name)
        if self._count("ready") >= self._wanted:
            self._started.set()
        self._dispatch()

    async def _acquire(self) -> Member:
        """A slot on the least loaded actor, in the order of asking."""
        if self._failure is not None:
            raise self._failure
        waiter: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release(waiter.result())
            raise

    def _dispatch(self) -> None:
        """Hands free slots to those who wait."""
        while self._waiters and (member := self._free()) is not None:
            waiter = self._waiters.popleft()
            if waiter.done():  # cancelled while it waited
                continue
            if member.in_flight == 0:
                member.busy_since = time.monotonic()
            member.in_flight += 1
            waiter.set_result(member)

    def _free(self) -> Member | None:
        open_members = [
            m
            for m in self._members
            if m.state == "ready" and m.in_flight < self.config.max_in_flight
        ]
        return min(open_members, key=lambda m: m.in_flight, default=None)

    def _release(self, member: Member) -> None:
        member.in_flight -= 1
        member.calls += 1
        if member.in_flight == 0:
            member.busy_s += time.monotonic() - member.busy_since
            if member.state == "draining":
                self._retire(member)
        self._dispatch()

    async def _invoke(
        self, member: Member, method: str, args: tuple[Any, ...], timeout_s: float
    ) -> Any:
        ref = getattr(member.handle, method).remote(*args)
        try:
            return await asyncio.wait_for(ref, timeout_s)
        except TimeoutError:
            ray.cancel(ref)
            raise
        except RayTaskError as error:
            # Ray wraps the method's exception; callers want the exception itself.
            raise error.as_instanceof_cause() from None

    def _lost(self, member: Member, error: BaseException) -> None:
        """Replaces an actor that died; only the first who notices does the work."""
        if member.state == "dead" or self._stopping:
            return
        draining = member.state == "draining"
        member.state = "dead"
        self._members.remove(member)
        ray.kill(member.handle)
        if draining:
            return
        self._restarts += 1
        log.warning("pool %s: %s is lost (%s)", self.kind, member.name, _short(error))
        if self._restarts > self.config.max_restarts:
            self._fail(
                PoolError(
                    f"pool {self.kind}: more than {self.config.max_restarts} restarts; "
                    f"last error: {_short(error)}"
                )
            )
        if self._failure is None:
            self._fill()

    def _retire(self, member: Member) -> None:
        member.state = "dead"
        if member in self._members:
            self._members.remove(member)
        ray.kill(member.handle)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            await asyncio.gather(
                *(self._check(m) for m in list(self._members) if m.state == "ready")
            )

    async def _check(self, member: Member) -> None:
        try:
            await asyncio.wait_for(member.handle.ping.remote(), PING_TIMEOUT_S)
        except (RayActorError, RayTaskError, TimeoutError) as error:
            self._lost(member, error)

    def _fail(self, error: PoolError) -> None:
        """Ends the pool: everybody who waits, now or later, gets the first error."""
        self._failure = self._failure or error
        self._started.set()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(self._failure)

    def _launch(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _count(self, *states: str) -> int:
        return sum(m.state in states for m in self._members)


def _short(error: BaseException) -> str:
    """The line that says what happened, out of Ray's many: the exception of the actor's own
    code (last line of its traceback), or the head of a system failure."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    own = isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False)
    return f"{type(error).__name__}: {lines[-1 if own else 0].strip()}"
