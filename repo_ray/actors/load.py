"""How loaded a pool is: waiting times, service times, busy actors. Pure: it is told the time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Seconds between two looks at a pool.
TICK_S = 1.0
#: Looks over which `LoadMeter.queue_s` and `LoadMeter.busy_share` are taken: one minute.
RECENT_TICKS = 60
#: The service time is the mean of this many calls.
SERVICE_CALLS = 100


@dataclass(frozen=True)
class PoolStats:
    """Counters since the pool started. `queue` and `in_flight` are of this moment, `queue_s` and
    `busy_share` of the last minute (see `LoadMeter`); `max_queue` is the setting, `bounds` are
    those of autoscaling, if on. Since the start, at most `longest_queue` calls waited at once, the
    longest for `longest_wait_s`, and of `able_s` seconds, summed over the actors, `busy_s` passed
    with a call in flight.
    """

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
    queue_s: float
    busy_share: float
    max_queue: int
    longest_queue: int
    longest_wait_s: float
    busy_s: float
    able_s: float
    bounds: tuple[int, int] | None = None
    members: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tick:
    """What happened between two looks at a pool; times in seconds.

    `arrivals` calls asked for a slot; at most `peak` were waiting or in flight together, and
    `queue` wait now. `waited_s` is the longest wait among the calls that got a slot or still
    wait, `service_s` the mean time that the last `SERVICE_CALLS` calls had their slot (0 before
    the first has ended). Of `able_s` seconds, summed over the actors able to work, `busy_s`
    passed with at least one call in flight.
    """

    seconds: float
    arrivals: int
    peak: int
    queue: int
    waited_s: float
    service_s: float
    busy_s: float
    able_s: float


class LoadMeter:
    """Counts between two looks, and remembers the last minute; some counts go on for ever."""

    def __init__(self, now: float) -> None:
        self._recent: deque[Tick] = deque(maxlen=RECENT_TICKS)
        self._service: deque[float] = deque(maxlen=SERVICE_CALLS)
        self._tick_began = self._changed = now
        self._able = self._busy = self._calls = self._peak = 0
        self._waited_s = 0.0
        #: See `PoolStats`.
        self.longest_queue = 0
        self.longest_wait_s = self.total_busy_s = self.total_able_s = 0.0
        self._restart()

    @property
    def queue_s(self) -> float:
        """Longest wait for a slot in the last minute, of calls that got one or still wait."""
        return max((t.waited_s for t in self._recent), default=0.0)

    @property
    def busy_share(self) -> float:
        """Share of the actors' time, over the last minute, with at least one call in flight.

        Actors that start do not count, those that drain do. 0 when there were none.
        """
        able_s = sum(t.able_s for t in self._recent)
        return sum(t.busy_s for t in self._recent) / able_s if able_s else 0.0

    def asked(self) -> None:
        """A call asks for a slot."""
        self._arrivals += 1

    def began(self, waited_s: float) -> None:
        """A call got its slot."""
        self._waited_s = max(self._waited_s, waited_s)

    def ended(self, took_s: float) -> None:
        """A call gave its slot back."""
        self._service.append(took_s)

    def observe(self, now: float, able: int, busy: int, calls: int, queue: int) -> None:
        """From now on `able` actors can work, `busy` of them have `calls` in all, `queue` wait."""
        self._integrate(now)
        self._able, self._busy = able, busy
        self._calls = calls + queue
        self._peak = max(self._peak, self._calls)
        self.longest_queue = max(self.longest_queue, queue)

    def tick(self, now: float, queue: int, oldest_s: float) -> Tick:
        """Ends the count; `queue` calls wait, the first of them since `oldest_s` seconds."""
        self._integrate(now)
        tick = Tick(
            seconds=now - self._tick_began,
            arrivals=self._arrivals,
            peak=self._peak,
            queue=queue,
            waited_s=max(self._waited_s, oldest_s),
            service_s=sum(self._service) / len(self._service) if self._service else 0.0,
            busy_s=self._busy_s,
            able_s=self._able_s,
        )
        self._recent.append(tick)
        self.longest_wait_s = max(self.longest_wait_s, tick.waited_s)
        self.total_busy_s += tick.busy_s
        self.total_able_s += tick.able_s
        self._tick_began = now
        self._restart()
        return tick

    def _integrate(self, now: float) -> None:
        elapsed, self._changed = now - self._changed, now
        self._able_s += self._able * elapsed
        self._busy_s += self._busy * elapsed

    def _restart(self) -> None:
        self._arrivals = 0
        self._peak = self._calls
        self._waited_s = self._busy_s = self._able_s = 0.0
