"""The run's judge budget as a Ray actor, with real judge actors and a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from chat_server import ChatServer, running_server, says
from ray.exceptions import RayActorError

from repo_ray.actors.judge_budget import NAME, BudgetKeeper
from repo_ray.actors.scorers import EndpointJudgeActor
from repo_ray.config import Config
from repo_ray.config.load import validate
from repo_ray.records import Message, Prompt, Score

GOOD = {"kind": {"evidence": "thank you", "verdict": True}}
PROMPT = Prompt("p", (Message("user", "Good morning."),))
LIMIT_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with running_server() as server:
        server.script = [says(GOOD, usage=(500, 100))]
        yield server


def settings(server: ChatServer, folder: Path, **judge: Any) -> Config:
    rubric = folder / "rubric.yaml"
    criterion = {"id": "kind", "question": "The reply is kind.", "points": 10}
    rubric.write_text(yaml.safe_dump({"criteria": [criterion]}))
    place = {"kind": "endpoint", "base_url": server.url, "model": "m", "rubric": str(rubric)}
    return validate({"run": {"name": folder.name}, "judge": place | judge}, "test")


def judge(config: Config) -> Any:
    return EndpointJudgeActor.options(num_cpus=0.1, max_concurrency=64).remote(config)


async def ask(actor: Any, reply: str) -> Score:
    score: Score = await asyncio.wait_for(actor.score.remote(PROMPT, reply), LIMIT_S)
    return score


async def until_dead(actor: Any) -> None:
    try:
        while True:
            await asyncio.wait_for(actor.news.remote(), LIMIT_S)
            await asyncio.sleep(0.1)
    except RayActorError:
        return


async def test_the_limit_holds_over_all_judges(server: ChatServer, tmp_path: Path) -> None:
    config = settings(server, tmp_path, requests_per_minute=3)
    keeper = BudgetKeeper(config, tmp_path)
    await keeper.start()
    judges = [judge(config) for _ in range(2)]
    try:
        scores = [asyncio.ensure_future(ask(judges[i % 2], f"Thank you, {i}.")) for i in range(8)]
        await asyncio.wait(scores, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(3)
        done = {task for task in scores if task.done()}
        assert len(server.requests) == 3
        assert [task.result().value for task in done] == [10.0] * 3
        assert (await keeper.figures())["judge/requests"] == 3
        for task in scores:
            task.cancel()
        await asyncio.gather(*scores, return_exceptions=True)
    finally:
        for actor in judges:
            ray.kill(actor)
        await keeper.stop()


async def test_what_was_spent_and_answered_outlives_the_run(
    server: ChatServer, tmp_path: Path
) -> None:
    prices = {f"price_per_million_{kind}_tokens": 1e6 for kind in ("input", "output")}
    config = settings(server, tmp_path, cache=True, max_spend=4000.0, **prices)
    keeper = BudgetKeeper(config, tmp_path)
    await keeper.start()
    actor = judge(config)
    try:
        assert (await ask(actor, "Thank you.")).value == 10.0
        assert (await ask(actor, "Thank you.")).value == 10.0
        figures = await keeper.figures()
        assert figures["judge/spent"] == 600.0
        assert figures["judge/cache_hits"] == 1.0
    finally:
        ray.kill(actor)
        await keeper.stop()
    saved = json.loads((tmp_path / "judge_budget.json").read_text())
    assert (saved["requests"], saved["spent"]) == (1, 600.0)
    assert len((tmp_path / "judge_cache.jsonl").read_text().splitlines()) == 1

    resumed = BudgetKeeper(config, tmp_path)
    await resumed.start()
    actor = judge(config)
    try:
        assert (await ask(actor, "Thank you.")).value == 10.0
        assert len(server.requests) == 1, "the answer was kept"
        replies = [f"Thank you, {i}." for i in range(20)]
        scores = await asyncio.gather(*(ask(actor, reply) for reply in replies))
        refused = [s for s in scores if not s.valid]
        assert refused
        assert all(s.error.startswith("spend_limit: ") for s in refused)
        assert 600 * len(server.requests) <= 4000, "the first part of the run counts"
        assert (await resumed.figures())["judge/spent"] == 600.0 * len(server.requests)
    finally:
        ray.kill(actor)
        await resumed.stop()


async def test_without_its_budget_a_judge_gives_no_score_and_lives_on(
    server: ChatServer, tmp_path: Path
) -> None:
    config = settings(server, tmp_path, requests_per_minute=60)
    keeper = BudgetKeeper(config, tmp_path)
    await keeper.start()
    actor = judge(config)
    try:
        assert (await ask(actor, "Thank you.")).valid
        budget = ray.get_actor(NAME, namespace=f"repo_ray.{config.run.name}")
        ray.kill(budget)
        await until_dead(budget)
        score = await ask(actor, "Thank you again.")
        assert score.error.startswith("budget_lost: ")
        assert len(server.requests) == 1
        await asyncio.wait_for(actor.ping.remote(), LIMIT_S)
        assert (await keeper.figures())["judge/requests"] <= 1, "the last that is known"
    finally:
        ray.kill(actor)
        await keeper.stop()
