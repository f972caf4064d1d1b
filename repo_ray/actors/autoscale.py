"""How many actors a pool should have. Pure: told what happened, it answers with a number.

Need. Calls that arrive at a rate r and hold their slot for S seconds keep r·S slots busy
(Little's law). With r the highest rate over any H = max(queue_target_s, S) seconds of the recent
past, and P the most calls that were there at once, the pool needs

    slots = min(r·S / 0.8, P),    actors = ceil(slots / max_in_flight).

This holds for steady load (a fifth of the slots stays free) and for a burst of B calls at once:
with S below the target, r is B / queue_target_s, the burst is served in 0.8·queue_target_s / S
waves, and the last of them begins before 0.8·queue_target_s.

Up. When a call waits longer than `queue_target_s`, to the need at once; a backlog adds to r what
clears it within one cool-down.

Down. When no call waited longer than half the target, and fewer actors were needed, for
`cooldown_s` since the last change: to the need, but by no more than half, and never below what
is in flight. What is drained was not needed at the load's highest, so the same load does not call
it back.

Silence. A synchronous learner makes the scoring pools fall silent during each update, which says
nothing about the next batch. Time therefore stands still for the policy while a pool has had no
call for H seconds: it sees the collect phases one after the other, each with its own waiting
times. (Two bursts are then never closer than H, so that no rate counts both.) Only after `idle_s`
of silence is the pool no longer in use, and goes down to `min`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from repo_ray.actors.load import TICK_S, Tick
from repo_ray.config.pool import AutoscaleConfig

#: Share of the slots that the load may fill: the rest evens out chance and clears a backlog.
UTILISATION = 0.8
#: Keeps rounding errors from costing an actor.
_EPSILON = 1e-9


@dataclass(frozen=True)
class Decision:
    """The wanted number of actors, and why it changes."""

    wanted: int
    reason: str = ""


class Autoscaler:
    """The policy with what it remembers. `slots` is the pool's `max_in_flight`."""

    def __init__(self, config: AutoscaleConfig, slots: int) -> None:
        self._config = config
        self._slots = slots
        self._ticks: deque[Tick] = deque()
        self._wanted = 0
        self._settled_s = 0.0
        self._silent_s = 0.0
        self._held_s = 0.0

    def decide(self, tick: Tick, wanted: int) -> Decision:
        """What to do after `tick`, when `wanted` actors are wanted so far."""
        config = self._config
        horizon_s = max(config.queue_target_s, tick.service_s)
        span_s = config.cooldown_s + 2 * horizon_s  # holds a cool-down and the burst before it
        self._remember(tick, wanted, horizon_s, span_s)
        need = actors_needed(self._ticks, self._slots, horizon_s, config.cooldown_s)
        longest_s = max((t.waited_s for t in self._ticks), default=0.0)
        target, reason = wanted, f"the bounds are {config.min} and {config.max}"
        if tick.waited_s > config.queue_target_s and need > wanted and not self._held_s:
            target = need
            reason = (
                f"calls wait {tick.waited_s:.1f} s (target {config.queue_target_s:g} s), "
                f"the load needs {need}"
            )
        elif self._silent_s >= config.idle_s:
            target, reason = config.min, f"no call for {config.idle_s:g} s"
        elif (
            self._settled_s >= span_s and tick.service_s and longest_s <= config.queue_target_s / 2
        ):
            in_use = math.ceil(tick.peak / self._slots)
            target = min(wanted, max(need, in_use, math.ceil(wanted / 2)))
            reason = (
                f"waits of at most {longest_s:.1f} s in {span_s:.0f} s of work, "
                f"the load needs {need}"
            )
        return Decision(max(config.min, min(config.max, target)), reason)

    def give_up(self, wanted: int) -> bool:
        """Whether the pool should go on without an actor that did not come up.

        True above `min`; then none is asked for during a cool-down.
        """
        if wanted <= self._config.min:
            return False
        self._held_s = self._config.cooldown_s
        return True

    def _remember(self, tick: Tick, wanted: int, horizon_s: float, span_s: float) -> None:
        if wanted != self._wanted:
            self._wanted, self._settled_s = wanted, 0.0
        self._held_s = max(0.0, self._held_s - tick.seconds)
        self._silent_s = 0.0 if tick.peak else self._silent_s + tick.seconds
        if self._silent_s > horizon_s:
            return
        self._ticks.append(tick)
        self._settled_s += tick.seconds
        surplus_s = sum(t.seconds for t in self._ticks) - span_s
        while surplus_s >= self._ticks[0].seconds:
            surplus_s -= self._ticks.popleft().seconds


def actors_needed(ticks: Sequence[Tick], slots: int, horizon_s: float, clear_s: float) -> int:
    """Actors of `slots` each for the load in `ticks` (see the top of this file).

    Rates are taken over `horizon_s` seconds; what is queued now is to be cleared in `clear_s`.
    """
    if not ticks:
        return 0
    last = ticks[-1]
    rate = _highest_rate(ticks, horizon_s) + last.queue / clear_s
    calls = min(rate * last.service_s / UTILISATION, max(t.peak for t in ticks))
    return math.ceil(calls / slots - _EPSILON)


def _highest_rate(ticks: Sequence[Tick], horizon_s: float) -> float:
    """Most arrivals per second over any `horizon_s` seconds, rounded to whole ticks."""
    count = max(1, round(horizon_s / TICK_S))
    if len(ticks) <= count:
        return sum(t.arrivals for t in ticks) / max(horizon_s, sum(t.seconds for t in ticks))
    listed = list(ticks)
    stretches = (listed[i : i + count] for i in range(len(listed) - count + 1))
    return max(sum(t.arrivals for t in s) / sum(t.seconds for t in s) for s in stretches)
