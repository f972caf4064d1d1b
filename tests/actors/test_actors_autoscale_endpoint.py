"""A judge pool in front of a slow endpoint, its load tripled in mid-run.

`-s` prints the figures: `pytest -m slow -s tests/actors/test_actors_autoscale_endpoint.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import ray
from slow_judge import start_slow_judge

from repo_ray.actors.pool import ActorPool
from repo_ray.actors.scorers import EndpointJudgeActor, RulesActor
from repo_ray.config import Config
from repo_ray.records import Message, Prompt, Score

NAMESPACE = "autoscale-test"
PROMPT = Prompt("p", (Message("user", "Our lowest is 420."),), {})
REPLY = "Thank you. Could we meet at 400?"


@dataclass(frozen=True)
class Case:
    """An endpoint that answers after `latency_s`, and `rate` replies a second, later 3 * `rate`."""

    latency_s: float
    slots: int
    rate: float
    queue_target_s: float
    #: Of each part; throughput is counted over its second half.
    seconds: float


@dataclass(frozen=True)
class Measured:
    before: float
    after: float
    followed_s: float
    offered: int
    judged: list[Score]
    ruled: list[Score]
    judges: list[int]
    rules_members: tuple[dict[str, str], dict[str, str]]
    requeued: int
    restarts: int


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=8, namespace=NAMESPACE, include_dashboard=False)
    yield
    ray.shutdown()


async def measure(case: Case) -> Measured:
    """Scores every reply by judge and rules, as they come."""
    server = await start_slow_judge(case.latency_s)
    config = Config.model_validate(
        {
            "judge": {
                "kind": "endpoint",
                "base_url": str(server.make_url("/v1")),
                "model": "m",
                "pool": {
                    "cpus": 0.1,
                    "max_in_flight": case.slots,
                    "autoscale": {
                        "max": 6,
                        "queue_target_s": case.queue_target_s,
                        "cooldown_s": 30,
                    },
                },
            },
            "rules": {"pool": {"cpus": 0.1, "max_in_flight": 8}},
        }
    )

    def pool(kind: str, actor: Any, settings: Any) -> ActorPool:
        return ActorPool(
            kind,
            NAMESPACE,
            settings,
            lambda name, options: actor.options(**options).remote(config),
        )

    judge = pool("judge", EndpointJudgeActor, config.judge.pool)
    rules = pool("rules", RulesActor, config.rules.pool)
    ends: list[float] = []
    judges: list[int] = []

    async def one(source: ActorPool) -> Score:
        score: Score = await source.call("score", PROMPT, REPLY)
        if source is judge:
            ends.append(time.monotonic())
        return score

    async def watch() -> None:
        while True:
            judges.append(judge.stats().ready)
            await asyncio.sleep(1)

    scores: dict[ActorPool, list[asyncio.Task[Score]]] = {judge: [], rules: []}

    async def offer(rate: float, seconds: float) -> float:
        """Offers the load; judgements a second in the second half of it."""
        begin = time.monotonic()
        for i in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + i / rate - time.monotonic()))
            for source, tasks in scores.items():
                tasks.append(asyncio.create_task(one(source)))
        now = time.monotonic()
        return sum(now - seconds / 2 < end for end in ends) / (seconds / 2)

    try:
        await asyncio.gather(judge.start(), rules.start())
        members = rules.stats().members
        watching = asyncio.create_task(watch())
        before = await offer(case.rate, case.seconds)
        tripled = time.monotonic()
        while not 1 < judge.stats().wanted == judge.stats().ready:
            assert time.monotonic() < tripled + 60, f"no more judges: {judge.stats()}"
            await offer(3 * case.rate, 1.0)
        followed_s = time.monotonic() - tripled
        after = await offer(3 * case.rate, case.seconds)
        judged = await asyncio.gather(*scores[judge])
        ruled = await asyncio.gather(*scores[rules])
        watching.cancel()
        stats = judge.stats()
        return Measured(
            before,
            after,
            followed_s,
            len(scores[judge]),
            judged,
            ruled,
            judges,
            (members, rules.stats().members),
            stats.requeued,
            stats.restarts,
        )
    finally:
        await asyncio.gather(judge.stop(), rules.stop())
        await server.close()


async def check(case: Case) -> None:
    found = await measure(case)
    print(
        f"\nendpoint of {case.latency_s:g} s, {case.slots} calls per judge: throughput "
        f"{found.before:.1f}/s at {case.rate:g}/s offered, {found.after:.1f}/s at "
        f"{3 * case.rate:g}/s, {found.followed_s:.0f} s after it tripled; "
        f"{found.offered} replies, judges each second {found.judges}"
    )
    assert found.judges[0] == 1
    assert found.after >= 2.2 * found.before
    assert len(found.judged) == len(found.ruled) == found.offered
    assert [score.error for score in found.judged + found.ruled if not score.valid] == []
    assert (found.requeued, found.restarts) == (0, 0)
    assert found.rules_members == ({"rules-0": "ready"}, {"rules-0": "ready"})


async def test_throughput_follows_a_load_that_triples(caplog: pytest.LogCaptureFixture) -> None:
    # One judge serves 10 replies a second.
    with caplog.at_level(logging.INFO, "repo_ray.actors.pool"):
        await check(Case(0.2, slots=2, rate=6, queue_target_s=1, seconds=4))
    (scaling, *_) = [r.getMessage() for r in caplog.records if "scaling from 1" in r.getMessage()]
    assert "pool judge" in scaling
    assert "(target 1 s)" in scaling


@pytest.mark.slow
async def test_throughput_follows_with_an_endpoint_of_two_seconds() -> None:
    # One judge serves 4 replies a second; 9 a second need three.
    await check(Case(2.0, slots=8, rate=3, queue_target_s=5, seconds=40))
