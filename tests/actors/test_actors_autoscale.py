"""The scaling policy: by hand, and against a simulated pool under random loads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from repo_ray.actors.autoscale import UTILISATION, Autoscaler, actors_needed
from repo_ray.actors.load import LoadMeter, Tick
from repo_ray.config.pool import AutoscaleConfig

IDLE = Tick(1.0, 0, 0, 0, 0.0, 2.0, 0.0, 1.0)
COOLDOWN_S = 20.0


def tick(**changes: float) -> Tick:
    return replace(IDLE, **changes)  # type: ignore[arg-type]


@dataclass
class Result:
    """Of a simulated run: the wanted number after each second, and each call's (asked, wait)."""

    wanted: list[int]
    waits: list[tuple[float, float]]
    unserved: int

    def falls_then_rises(self) -> bool:
        steps = [b - a for a, b in pairwise(self.wanted) if b != a]
        return any(a < 0 < b for a, b in pairwise(steps))


def simulate(
    config: AutoscaleConfig,
    slots: int,
    service_s: float,
    arrivals: Sequence[float],
    seconds: int,
    replicas: int = 1,
    start_s: float = 2.5,
) -> Result:
    """A pool of equal actors that take `start_s` to come up, looked at once a second."""
    meter, scaler = LoadMeter(0.0), Autoscaler(config, slots)
    ready = wanted = replicas
    starting: deque[float] = deque()
    queue: deque[float] = deque()
    ends: list[float] = []
    coming = deque(sorted(arrivals))
    result = Result([], [], 0)

    def settle(now: float) -> None:
        while queue and len(ends) < ready * slots:
            asked = queue.popleft()
            meter.began(now - asked)
            result.waits.append((asked, now - asked))
            heappush(ends, now + service_s)
        meter.observe(
            now, 1, bool(ends), len(ends), len(queue)
        )  # the policy does not ask on which actors

    for second in range(1, seconds + 1):
        while True:
            candidates = [(coming[0], 0)] if coming else []
            candidates += [(ends[0], 1)] if ends else []
            candidates += [(starting[0], 2)] if starting else []
            now, event = min(candidates, default=(math.inf, 0))
            if now > second:
                break
            if event == 0:
                queue.append(coming.popleft())
                meter.asked()
            elif event == 1:
                heappop(ends)
                meter.ended(service_s)
            else:
                starting.popleft()
                ready += 1
            settle(now)
        settle(second)
        tick = meter.tick(second, len(queue), second - queue[0] if queue else 0.0)
        decision = scaler.decide(tick, wanted)
        for _ in range(decision.wanted - wanted):
            starting.append(second + start_s)
        for _ in range(wanted - decision.wanted):
            if starting:
                starting.pop()
            else:
                ready -= 1
        wanted = decision.wanted
        result.wanted.append(wanted)
    result.unserved = len(queue)
    return result


def steady(rate: float, begin: float, end: float) -> list[float]:
    return [begin + i / rate for i in range(int((end - begin) * rate))]


# --- by hand ------------------------------------------------------------------------------


def test_need_follows_littles_law() -> None:
    # 10 calls a second of 2 s keep 20 slots busy, 25 with a fifth kept free: 4 actors of 8.
    ticks = [tick(arrivals=10, peak=40)] * 6
    assert actors_needed(ticks, slots=8, horizon_s=5, clear_s=60) == 4
    assert actors_needed(ticks, slots=25, horizon_s=5, clear_s=60) == 1
    thrice = [tick(arrivals=30, peak=100)] * 6
    assert actors_needed(thrice, slots=25, horizon_s=5, clear_s=60) == 3


def test_need_has_no_more_slots_than_there_were_calls() -> None:
    ticks = [tick(arrivals=10, peak=9)] * 6
    assert actors_needed(ticks, slots=4, horizon_s=5, clear_s=60) == 3


def test_need_counts_a_burst_over_the_time_that_it_may_take() -> None:
    # 16 calls of 2 s within 5 s: 6.4 slots at work, 8 with a fifth kept free.
    ticks = [IDLE, tick(arrivals=16, peak=16), *[IDLE] * 5]
    assert actors_needed(ticks, slots=4, horizon_s=5, clear_s=60) == 2


def test_need_includes_what_clears_a_backlog_in_time() -> None:
    ticks = [tick(peak=600, queue=600)] * 6
    # 600 calls in 60 s are 10 a second.
    assert actors_needed(ticks, slots=5, horizon_s=5, clear_s=60) == 5


def test_waiting_below_the_target_changes_nothing() -> None:
    scaler = Autoscaler(AutoscaleConfig(queue_target_s=5), slots=1)
    for _ in range(6):
        assert scaler.decide(tick(arrivals=5, peak=20, waited_s=5.0), 1).wanted == 1
    decision = scaler.decide(tick(arrivals=5, peak=20, waited_s=5.1), 1)
    assert decision.wanted == 8  # 5 a second of 2 s each: 12.5 slots, bounded by max
    assert "wait 5.1 s (target 5 s)" in decision.reason


def test_a_number_outside_of_the_bounds_is_brought_back() -> None:
    config = AutoscaleConfig(min=2, max=4)
    assert Autoscaler(config, 1).decide(IDLE, 0).wanted == 2
    decision = Autoscaler(config, 1).decide(IDLE, 9)
    assert (decision.wanted, decision.reason) == (4, "the bounds are 2 and 4")


def test_nothing_is_drained_before_the_first_call_has_ended() -> None:
    scaler = Autoscaler(AutoscaleConfig(cooldown_s=10), slots=1)
    for _ in range(100):
        assert scaler.decide(tick(peak=1, service_s=0.0), 4).wanted == 4


def test_an_actor_that_does_not_come_up_is_not_asked_for_again_at_once() -> None:
    scaler = Autoscaler(AutoscaleConfig(max=3, queue_target_s=5, cooldown_s=10), slots=1)
    waiting = tick(arrivals=5, peak=50, waited_s=9.0)
    assert scaler.decide(waiting, 1).wanted == 3
    assert scaler.give_up(3)
    assert [scaler.decide(waiting, 2).wanted for _ in range(10)] == [2] * 9 + [3]


def test_the_last_actors_are_not_given_up() -> None:
    scaler = Autoscaler(AutoscaleConfig(min=2), slots=1)
    assert not scaler.give_up(2)
    assert scaler.give_up(3)


# --- simulated ----------------------------------------------------------------------------


def test_load_that_triples_is_followed_and_let_go_again() -> None:
    config = AutoscaleConfig(max=16, queue_target_s=5, cooldown_s=COOLDOWN_S)
    # 3 a second of 2 s on 8 slots; thrice as much needs 18 slots, 22.5 with a fifth free.
    load = steady(3, 0, 60) + steady(9, 60, 240) + steady(3, 240, 500)
    result = simulate(config, 8, 2.0, load, 500)
    assert result.unserved == 0
    assert set(result.wanted[:60]) == {1}
    assert result.wanted[235] == 3
    assert result.wanted[-1] == 1
    late = [wait for asked, wait in result.waits if 120 < asked < 240]
    assert max(late) <= 5


def test_silence_between_batches_drains_nothing_until_it_is_long() -> None:
    config = AutoscaleConfig(max=16, queue_target_s=5, cooldown_s=COOLDOWN_S, idle_s=600)
    # A batch of 64 every 5 minutes: 64 calls of 4 s within 5 s are 64 slots with a fifth free.
    load = [300.0 * batch for batch in range(10) for _ in range(64)]
    result = simulate(config, 8, 4.0, load, 4000)
    assert set(result.wanted[30:3290]) == {8}
    assert max(wait for asked, wait in result.waits if asked >= 300) <= 5
    assert result.wanted[3320] == 1  # ten minutes after the last batch


LOADS = {
    "slots": st.sampled_from([1, 2, 4, 8, 32]),
    "service_s": st.floats(0.05, 8.0),
    "replicas": st.integers(1, 12),
    "target_s": st.sampled_from([2.0, 5.0]),
}


@settings(deadline=None, max_examples=30)
@given(rate=st.floats(0.2, 12.0), **LOADS)
def test_steady_load_never_flaps_and_gets_what_it_needs(
    rate: float, slots: int, service_s: float, replicas: int, target_s: float
) -> None:
    config = AutoscaleConfig(max=128, queue_target_s=target_s, cooldown_s=COOLDOWN_S)
    result = simulate(config, slots, service_s, steady(rate, 0, 400), 400, replicas)
    assert not result.falls_then_rises()
    # A hundredth too few slots take longer than this to make calls wait.
    assert result.wanted[-1] * slots * 1.02 >= rate * service_s
    # One call more may fall into the stretch over which the rate is taken, which is rounded to
    # seconds; an overload may have been noticed just now, and its backlog be included.
    busy = rate * service_s * (1 + target_s / COOLDOWN_S) + 1.3
    most = math.ceil(busy / UTILISATION / slots)
    assert result.wanted[-1] <= most
    # A slow overload may reach the target only now.
    assert max(wait for asked, wait in result.waits if asked > 300) <= target_s + 0.2


@settings(deadline=None, max_examples=30)
@given(calls=st.integers(1, 60), every_s=st.integers(30, 200), **LOADS)
def test_a_rhythm_of_batches_never_flaps_and_is_served_in_time(
    calls: int, every_s: int, slots: int, service_s: float, replicas: int, target_s: float
) -> None:
    config = AutoscaleConfig(max=128, queue_target_s=target_s, cooldown_s=COOLDOWN_S)
    batches = 12
    load = [float(batch * every_s) for batch in range(batches) for _ in range(calls)]
    result = simulate(config, slots, service_s, load, batches * every_s, replicas)
    assert not result.falls_then_rises()
    settled = batches // 2 * every_s
    assert max(wait for asked, wait in result.waits if asked >= settled) <= target_s


@settings(deadline=None, max_examples=100)
@given(
    bounds=st.tuples(st.integers(1, 20), st.integers(1, 20)).map(sorted),
    wanted=st.integers(0, 40),
    slots=st.integers(1, 64),
    ticks=st.lists(
        st.builds(
            Tick,
            seconds=st.floats(0.5, 30.0),
            arrivals=st.integers(0, 1000),
            peak=st.integers(0, 1000),
            queue=st.integers(0, 1000),
            waited_s=st.floats(0.0, 1000.0),
            service_s=st.floats(0.0, 500.0),
            busy_s=st.just(0.0),
            able_s=st.just(1.0),
        ),
        min_size=1,
        max_size=60,
    ),
)
def test_no_load_leads_outside_of_the_bounds(
    bounds: list[int], wanted: int, slots: int, ticks: list[Tick]
) -> None:
    config = AutoscaleConfig(min=bounds[0], max=bounds[1])
    scaler = Autoscaler(config, slots)
    for one in ticks:
        decision = scaler.decide(one, wanted)
        assert bounds[0] <= decision.wanted <= bounds[1]
        assert decision.wanted == wanted or decision.reason
        wanted = decision.wanted
