"""Whatever a judge's endpoint does wrong, and however often: what is valid is right."""

from __future__ import annotations

import asyncio
import hashlib
import random
import resource
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web
from chat_server import (
    ChatServer,
    Handler,
    bomb,
    completion,
    drip,
    drop,
    endless,
    no_choices,
    not_json,
    running_server,
    says,
    status,
)

from repo_ray.config.rewards import JudgeConfig
from repo_ray.records import Message, Prompt, Score
from repo_ray.rewards.judge.endpoint import EndpointJudge
from repo_ray.rewards.judge.rubric import Criterion, Rubric

RUBRIC = Rubric((Criterion("kind", "It is kind.", 10), Criterion("rude", "It is rude.", -40)))
PROMPT = Prompt("p", (Message("user", "Good morning."),))
CAUSES = {"timeout", "rate_limited", "server_error", "malformed", "refused", "connection"}
#: Replies of 1 to 40 words, each with a name that no other has.
REPLIES = [f"reply-{i} " + "word " * (i % 40) for i in range(60)]


def verdicts(reply: str) -> dict[str, dict[str, object]]:
    """What this judge thinks of a reply, always."""
    digest = hashlib.sha256(reply.encode()).digest()
    name = reply.split()[0]
    return {
        criterion: {"evidence": name if holds else "", "verdict": holds}
        for criterion, holds in (("kind", digest[0] % 2 == 0), ("rude", digest[1] % 2 == 0))
    }


async def slow(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(1.0)
    return completion("too late")


async def half(request: web.Request) -> web.StreamResponse:
    """Announces more than it sends, and closes."""
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": "500"}
    )
    await response.prepare(request)
    await response.write(b'{"id": "x", "choi')
    assert request.transport is not None
    request.transport.close()
    return response


async def million_tokens(request: web.Request) -> web.StreamResponse:
    return completion("word " * 1_000_000)


FAULTS: Sequence[Handler] = (
    *(slow, drop, half, not_json, no_choices, drip),
    *(million_tokens, endless(), endless(500), bomb(64)),
    *(status(429), status(429, Retry_After="0"), status(500), status(503)),
    *(says("{"), says({"kind": {"evidence": "", "verdict": "maybe"}}), says("NaN")),
    says('{"kind": NaN, "rude": 1e999}'),
    says({"kind": {"evidence": "words it never said", "verdict": True}}),
    *(says(None, refusal="no"), says("", "content_filter"), says("", "length")),
)


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with running_server() as server:
        yield server


async def judged(server: ChatServer, share: float, seed: int) -> list[Score]:
    """Scores of all replies; each request meets a fault with the probability `share`."""
    rng = random.Random(seed)

    async def handle(request: web.Request) -> web.StreamResponse:
        text = (await request.json())["messages"][-1]["content"]
        if rng.random() < share:
            return await rng.choice(FAULTS)(request)
        (reply,) = (r for r in REPLIES if f"{r.split()[0]} " in text + " " and r.strip() in text)
        return completion(verdicts(reply))

    server.script = [handle]
    settings = {"kind": "endpoint", "base_url": server.url, "model": "m", "max_retries": 2}
    config = JudgeConfig.model_validate(settings | {"request_timeout_s": 0.5})
    judge = EndpointJudge(RUBRIC, config, "key", deadline_s=20.0, backoff_s=0.01)
    slots = asyncio.Semaphore(8)

    async def one(reply: str) -> Score:
        async with slots:
            return await judge.score(PROMPT, reply)

    try:
        return list(await asyncio.gather(*map(one, REPLIES)))
    finally:
        await judge.close()


async def test_valid_scores_are_those_without_faults_and_the_others_have_a_cause(
    server: ChatServer,
) -> None:
    right = [score.value for score in await judged(server, 0.0, 0)]
    assert len(set(right)) == 4  # the replies differ in both verdicts
    for seed, share in enumerate((0.2, 0.6, 0.95)):
        server.requests.clear()
        scores = await judged(server, share, seed)
        assert all(s.value == r for s, r in zip(scores, right, strict=True) if s.valid)
        causes = Counter(s.error.partition(":")[0] for s in scores if not s.valid)
        assert set(causes) <= CAUSES
        assert all(s.value is None for s in scores if not s.valid)
        assert len(REPLIES) <= len(server.requests) <= 3 * len(REPLIES)
    assert causes.total() > len(REPLIES) / 2


async def test_long_replies_are_not_lost_more_often_than_short_ones(server: ChatServer) -> None:
    """Faults that meet every request alike leave the lengths of what is valid as they were."""
    lost: Counter[bool] = Counter()
    for seed in range(4):
        for reply, score in zip(REPLIES, await judged(server, 0.8, seed), strict=True):
            if not score.valid:
                lost[len(reply.split()) > 20] += 1
    short = sum(len(r.split()) <= 20 for r in REPLIES)
    shares = lost[False] / (4 * short), lost[True] / (4 * (len(REPLIES) - short))
    assert abs(shares[0] - shares[1]) < 0.25  # over three standard deviations for 240 replies


async def test_answers_of_a_million_tokens_leave_no_memory_behind(server: ChatServer) -> None:
    async def flood(count: int) -> None:
        server.script = [million_tokens]
        settings = {"kind": "endpoint", "base_url": server.url, "model": "m", "max_retries": 0}
        config = JudgeConfig.model_validate(settings)
        judge = EndpointJudge(RUBRIC, config, "key", deadline_s=20.0)
        for _ in range(count):
            score = await judge.score(PROMPT, "reply")
            assert score.error.startswith("malformed: HTTP 200, too long")
        await judge.close()

    await flood(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await flood(12)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 25  # five answers' worth; twelve were read
