"""Measuring a pool's load, on a clock that the test moves."""

from __future__ import annotations

import pytest

from repo_ray.actors.load import RECENT_TICKS, SERVICE_CALLS, LoadMeter


def test_a_tick_counts_what_happened_since_the_last_one() -> None:
    meter = LoadMeter(100.0)
    meter.observe(100.0, able=2, busy=0, calls=0, queue=0)
    for _ in range(3):
        meter.asked()
    meter.observe(100.25, able=2, busy=1, calls=2, queue=1)
    meter.began(0.0)
    meter.began(0.3)
    meter.ended(0.5)
    meter.ended(1.5)
    meter.observe(100.75, able=2, busy=1, calls=1, queue=0)
    tick = meter.tick(101.0, 0, 0.0)
    assert (tick.seconds, tick.arrivals, tick.peak, tick.queue) == (1.0, 3, 3, 0)
    assert (tick.waited_s, tick.service_s) == (0.3, 1.0)
    # One of two actors worked from 100.25 to 101.
    assert (tick.busy_s, tick.able_s) == (0.75, 2.0)
    quiet = meter.tick(102.0, 0, 0.0)
    assert (quiet.arrivals, quiet.waited_s, quiet.busy_s) == (0, 0.0, 1.0)
    # The one call that is still in flight counts, the service time is remembered.
    assert (quiet.peak, quiet.service_s) == (1, 1.0)


def test_a_call_that_still_waits_counts_by_its_age() -> None:
    meter = LoadMeter(0.0)
    meter.began(0.5)
    assert meter.tick(1.0, 2, 0.9).waited_s == 0.9
    assert meter.queue_s == 0.9


def test_queue_time_and_busy_share_are_those_of_the_last_minute() -> None:
    meter = LoadMeter(0.0)
    assert (meter.queue_s, meter.busy_share) == (0.0, 0.0)
    meter.observe(0.0, able=4, busy=1, calls=1, queue=0)
    meter.began(7.0)
    meter.tick(1.0, 0, 0.0)
    assert (meter.queue_s, meter.busy_share) == (7.0, 0.25)
    meter.observe(1.0, able=4, busy=2, calls=2, queue=0)
    for second in range(RECENT_TICKS):
        meter.tick(second + 2.0, 0, 0.0)
    assert (meter.queue_s, meter.busy_share) == (0.0, 0.5)


def test_the_service_time_follows_the_latest_calls() -> None:
    meter = LoadMeter(0.0)
    meter.ended(1000.0)
    for _ in range(SERVICE_CALLS):
        meter.ended(2.0)
    assert meter.tick(1.0, 0, 0.0).service_s == pytest.approx(2.0)


def test_some_counts_are_of_the_whole_life_of_the_pool() -> None:
    meter = LoadMeter(0.0)
    meter.observe(0.0, able=2, busy=1, calls=1, queue=3)
    meter.began(4.0)
    for second in range(RECENT_TICKS + 5):
        meter.tick(second + 1.0, 0, 0.0)
        meter.observe(second + 1.0, able=2, busy=1, calls=1, queue=1)
    assert (meter.queue_s, meter.longest_wait_s, meter.longest_queue) == (0.0, 4.0, 3)
    seconds = RECENT_TICKS + 5
    assert (meter.total_busy_s, meter.total_able_s) == (seconds, 2 * seconds)
