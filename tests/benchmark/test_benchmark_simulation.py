"""The simulation against what follows from its delays by hand, and small runs of it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from statistics import fmean

import pytest
import ray
import torch

from repo_ray.benchmark.overlap import Overlap, overlap
from repo_ray.benchmark.scale import Measured, measure, steady
from repo_ray.benchmark.simulated import Delays, SimulatedEngine, busy_seconds
from repo_ray.benchmark.simulation import Shape, running
from repo_ray.models.adapters import adapter_digest, build_blob
from repo_ray.training.metrics import read_metrics
from repo_ray.training.trajectories import read_trajectories

FAST = Delays(sample_s=0.05, score_s=0.01, update_s=0.02, push_s=0.01)


def test_work_counts_where_it_lies_between_the_two_moments() -> None:
    spans = [(0.0, 4.0), (3.0, 4.0), (9.0, 9.0), (20.0, 1.0)]
    assert busy_seconds(spans, 2.0, 10.0) == 2.0 + 4.0 + 1.0
    assert busy_seconds(spans, 30.0, 40.0) == 0.0


def test_delays_are_lognormal_with_their_mean_and_fixed_by_seed_and_sample() -> None:
    delays = Delays(sample_s=30.0, sigma=0.5)
    drawn = [delays.sample(f"0-{i}-0") for i in range(20_000)]
    logs = [math.log(seconds) for seconds in drawn]
    assert fmean(drawn) == pytest.approx(30.0, rel=0.02)
    assert fmean(logs) == pytest.approx(math.log(30.0) - 0.125, abs=0.02)
    assert fmean((x - fmean(logs[:1000])) ** 2 for x in logs[:1000]) == pytest.approx(0.25, rel=0.2)
    assert delays.sample("0-1-0") == drawn[1]
    assert replace(delays, seed=1).sample("0-1-0") != drawn[1]
    assert Delays(sigma=0.0, update_sigma=0.0, update_s=7.0).update(3) == pytest.approx(7.0)


@pytest.mark.parametrize("drains", [True, False])
def test_only_an_engine_that_drains_keeps_a_push_waiting(drains: bool) -> None:
    delays = Delays(sample_s=0.2, sigma=0.0, push_s=0.01, drains=drains)
    tensors = {"m.lora_A.weight": torch.ones(1, 4), "m.lora_B.weight": torch.ones(4, 1)}
    blob = build_blob(tensors, 1, 1)

    async def body() -> tuple[bool, tuple[int, ...], tuple[int, ...], str]:
        engine = SimulatedEngine("rollout-0", delays, tokens=2)
        first = asyncio.ensure_future(engine.sample("0-0-0", "p", 0, [1], 0))
        await asyncio.sleep(0)
        push = asyncio.ensure_future(engine.push(blob, 3, ""))
        await push
        ended_before = first.done()
        second = await engine.sample("1-0-0", "p", 0, [1], 0)
        return ended_before, (await first).versions, second.versions, (await engine.state()).digest

    assert asyncio.run(body()) == (drains, (0, 0), (3, 3), adapter_digest(blob))


def test_a_run_makes_every_sample_once_and_its_engines_are_busy_for_their_delays() -> None:
    shape = Shape(engines=6, slots=3, judges=2, tokens=4, batch=24, staleness=1, delays=FAST)
    asyncio.run(_two_steps(shape))


async def _two_steps(shape: Shape) -> None:
    async with running(shape, steps=2) as (system, training, root):
        outcome = await training
        assert (outcome.finished, outcome.ledger.consumed, outcome.pushes) == (True, 48, 2)
        rows = read_trajectories(root / "trajectories")
        ids = [row["sample_id"] for row in rows]
        assert sorted(ids) == sorted(f"{s}-{i}-0" for s in range(2) for i in range(24))
        assert {row["engine"] for row in rows} == {f"rollout-{i}" for i in range(6)}
        expected_s = sum(FAST.sample(sample_id) for sample_id in ids)
        assert await system.engines.busy_s.remote(0.0, math.inf) == pytest.approx(expected_s)
        assert {p: s.stats().calls for p, s in system.pools.items()} == {
            **dict.fromkeys(("rollout", "reward_model", "judge", "rules"), 48)
        }
        [state] = {
            (s.version, s.verified) for s in (await system.rollout.broadcast("state")).values()
        }
        assert state == (2, True)
        assert [row["skipped"] for row in read_metrics(root)] == ["", ""]
    assert not ray.is_initialized()


def test_a_stretch_of_steady_state_is_measured() -> None:
    delays = Delays(sample_s=0.5, score_s=0.05, update_s=0.1, push_s=0.01, drains=False)
    measured = asyncio.run(measure(steady(4, 2, delays), ramp_s=1.0, window_s=2.0))
    assert isinstance(measured, Measured)
    assert (measured.engines, measured.judges) == (4, 2)
    assert measured.seconds >= 2.0
    # 80 slots end at most a sample each 0.5 s.
    assert 80 < measured.samples < 80 * measured.seconds / 0.5 * 1.3
    assert 0.3 < measured.busy_share <= 1.0
    assert measured.cpu_s_per_sample * measured.samples < 16 * measured.seconds


def test_the_overlap_by_hand() -> None:
    """Generation 4 + 6, learning 3 + 5; in company: 4, then 6 beside 3, then 5."""
    made = Overlap(20.0, 17.0, collect_s=[4.0, 6.0], update_s=[3.0, 5.0])
    assert made.bound_s == max(4 + 6 + 5, 4 + 3 + 5) == 15
    assert made.share == pytest.approx(3 / 5)
    learning = Overlap(20.0, 16.0, collect_s=[1.0, 2.0], update_s=[6.0, 7.0])
    assert learning.bound_s == 14.0
    assert replace(learning, overlapped_s=20.0).share == 0.0


def test_a_staleness_of_one_overlaps() -> None:
    delays = Delays(0.4, 0.0, 0.4, 0.0, sigma=0.0, update_sigma=0.0)
    shape = Shape(engines=2, slots=4, judges=1, tokens=4, batch=8, staleness=0, delays=delays)
    made = asyncio.run(overlap(shape, steps=5))
    assert min(made.collect_s) >= 0.4
    assert min(made.update_s) >= 0.4
    assert made.synchronous_s >= made.bound_s >= 2.4
    assert made.share > 0.4  # 0 without any overlap; short delays make the rest of a step count
