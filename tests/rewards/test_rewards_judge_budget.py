"""The budget by itself, and judges that share one against a real server that keeps count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from chat_server import ChatServer, Handler, completion, running_server, says, status

from repo_ray.config.rewards import JudgeConfig
from repo_ray.records import Message, Prompt, Score
from repo_ray.rewards.judge import budget as budget_module
from repo_ray.rewards.judge.budget import BudgetError, JudgeBudget, Totals
from repo_ray.rewards.judge.endpoint import EndpointJudge, JudgeUnavailableError
from repo_ray.rewards.judge.prompt import answer_schema, answer_tokens, judge_messages
from repo_ray.rewards.judge.rubric import Criterion, Rubric
from repo_ray.rewards.judge.spending import Need, Usage, need_of

RUBRIC = Rubric((Criterion("kind", "The reply is kind.", 10),), "Task.")
PROMPT = Prompt("p", (Message("user", "Good morning."),), {"stage": "ask"})
GOOD = {"kind": {"evidence": "thank you", "verdict": True}}
#: A token costs 1.
PRICES = {"price_per_million_input_tokens": 1e6, "price_per_million_output_tokens": 1e6}
#: Stands in for the minute of the limits; long enough for a machine that is busy.
WINDOW_S = 1.2
NEED = Need(100, Usage(80, 20))


def config(base_url: str = "http://x/v1", **settings: Any) -> JudgeConfig:
    place = {"kind": "endpoint", "base_url": base_url, "model": "m", "max_retries": 2}
    return JudgeConfig.model_validate(place | {"request_timeout_s": 5.0} | settings)


# --- by itself -------------------------------------------------------------------------------


async def test_turns_come_in_the_order_of_asking() -> None:
    budget = JudgeBudget(config(requests_per_minute=2), window_s=0.1)
    order: list[int] = []

    async def one(number: int) -> None:
        await budget.admit(Need(10 * number, Usage(0, 0)))
        order.append(number)

    start = time.monotonic()
    await asyncio.gather(*(one(i) for i in range(7)))
    assert order == list(range(7))
    assert 0.3 <= time.monotonic() - start < 2
    assert budget.totals().waited_s > 0.3


async def test_a_waiter_that_is_cancelled_holds_nobody_up() -> None:
    budget = JudgeBudget(config(requests_per_minute=1), window_s=0.2)
    await budget.admit(NEED)
    first, second = (asyncio.ensure_future(budget.admit(NEED)) for _ in range(2))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.wait_for(second, 2)
    assert budget.totals().requests == 2


async def test_a_check_counts_but_does_not_stand_in_line() -> None:
    budget = JudgeBudget(config(requests_per_minute=1), window_s=30.0)
    await budget.admit(NEED)
    waiting = asyncio.ensure_future(budget.admit(NEED))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(budget.admit(NEED, queue=False), 1)
    assert not waiting.done()
    assert budget.totals().requests == 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_at_the_limit_a_request_waits_for_those_under_way() -> None:
    """Two cost at most 200 of 150 together; but the first turns out cheaper."""
    budget = JudgeBudget(config(max_spend=150.0, **PRICES))
    first = await budget.admit(NEED)
    second = asyncio.ensure_future(budget.admit(NEED))
    await asyncio.sleep(0.05)
    assert not second.done()
    await budget.settle(first, Usage(30, 20))
    assert await asyncio.wait_for(second, 1)
    assert budget.totals().spent == 150.0, "what is under way may have been billed"


async def test_where_the_rest_covers_no_request_it_is_refused() -> None:
    budget = JudgeBudget(config(max_spend=150.0, **PRICES))
    first = await budget.admit(NEED)
    waiting = [asyncio.ensure_future(budget.admit(NEED)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await budget.settle(first, Usage(80, 20))
    for task in waiting:
        with pytest.raises(BudgetError, match=r"spend_limit: 100 of judge.max_spend 150.0") as e:
            await asyncio.wait_for(task, 1)
        assert e.value.cause == "spend_limit"
    assert budget.totals().requests == 1


async def test_a_request_that_nobody_reports_counts_at_its_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its judge died: the line behind it must neither hang nor spend the money again."""
    monkeypatch.setattr(budget_module, "LEASE_MARGIN_S", 0.1)
    budget = JudgeBudget(config(max_spend=150.0, request_timeout_s=0.1, **PRICES))
    lost = await budget.admit(NEED)
    with pytest.raises(BudgetError, match="spend_limit"):
        await asyncio.wait_for(budget.admit(NEED), 2)
    assert budget.totals() == Totals(1, 1, 80, 20, 0, budget.totals().waited_s, 100.0)
    await budget.settle(lost, Usage(1, 1))
    assert budget.totals().spent == 100.0, "it was counted before"


async def test_what_an_earlier_part_of_the_run_left_is_taken_over() -> None:
    left = Totals(requests=3, spent=120.0)
    budget = JudgeBudget(config(max_spend=150.0, **PRICES), left, [("k", Score("judge", 7.0))])
    with pytest.raises(BudgetError, match="after 3 requests"):
        await budget.admit(NEED)
    assert await budget.cached("k") is None, "judge.cache is off"
    budget = JudgeBudget(config(cache=True), left, [("k", Score("judge", 7.0))])
    assert await budget.cached("k") == Score("judge", 7.0)
    assert budget.totals().cache_hits == 1
    assert budget.take_new() == []


# --- judges and a server ---------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with running_server() as server:
        yield server


def judges(
    server: ChatServer, budget: JudgeBudget, settings: JudgeConfig, count: int = 3
) -> list[EndpointJudge]:
    return [
        EndpointJudge(RUBRIC, settings, None, 20.0, backoff_s=0.01, budget=budget)
        for _ in range(count)
    ]


def at_most(limit: int, window_s: float) -> Handler:
    """A server that refuses more than `limit` requests in a window."""
    times: list[float] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        now = time.monotonic()
        times.append(now)
        if sum(now - window_s < t for t in times) > limit:
            return await status(429)(request)
        return completion(GOOD, usage=(50, 20))

    return handle


async def test_judges_that_share_a_budget_are_never_told_to_slow_down(server: ChatServer) -> None:
    settings = config(server.url, requests_per_minute=4)
    server.script = [at_most(4, WINDOW_S / 4)]
    shared = judges(server, JudgeBudget(settings, window_s=WINDOW_S), settings)
    start = time.monotonic()
    scores = await asyncio.gather(
        *(shared[i % 3].score(PROMPT, f"Thank you, {i}.") for i in range(12))
    )
    assert [s.value for s in scores] == [10.0] * 12
    assert len(server.requests) == 12, "none was refused and asked again"
    assert 2 * WINDOW_S <= time.monotonic() - start < 10


async def test_without_the_limit_that_server_refuses(server: ChatServer) -> None:
    """The server of the test above does what it is there for."""
    settings = config(server.url, max_retries=0)
    server.script = [at_most(4, 60.0)]
    shared = judges(server, JudgeBudget(settings), settings)
    scores = await asyncio.gather(
        *(shared[i % 3].score(PROMPT, f"Thank you, {i}.") for i in range(12))
    )
    assert sum(s.error.startswith("rate_limited") for s in scores) == 8


async def test_tokens_are_held_back_until_answers_say_what_they_used(server: ChatServer) -> None:
    """An answer uses far less than estimated: then more of them fit into the window."""
    need = need_of(judge_messages(RUBRIC, PROMPT, "Thank you."), *_longest()).tokens
    settings = config(server.url, tokens_per_minute=need)
    server.script = [says(GOOD, usage=(need // 20, need // 20))]
    (judge,) = judges(server, JudgeBudget(settings, window_s=WINDOW_S), settings, 1)
    start = time.monotonic()
    for _ in range(2):
        assert (await judge.score(PROMPT, "Thank you.")).valid
    assert time.monotonic() - start >= WINDOW_S, "two estimates are more than the limit"

    settings = config(server.url, tokens_per_minute=2 * need - 1)
    (judge,) = judges(server, JudgeBudget(settings, window_s=30.0), settings, 1)
    start = time.monotonic()
    for _ in range(5):
        assert (await judge.score(PROMPT, "Thank you.")).valid
    assert time.monotonic() - start < 5, "nothing waits once the answers have corrected it"


async def test_waiting_for_a_turn_does_not_count_against_the_deadline(server: ChatServer) -> None:
    settings = config(server.url, requests_per_minute=1)
    server.script = [says(GOOD, usage=(50, 20))]
    budget = JudgeBudget(settings, window_s=WINDOW_S)
    judge = EndpointJudge(RUBRIC, settings, None, deadline_s=0.8 * WINDOW_S, budget=budget)
    scores = await asyncio.gather(*(judge.score(PROMPT, f"Thank you, {i}.") for i in range(3)))
    assert all(s.valid for s in scores), scores
    assert max(s.latency_s for s in scores) < 0.8 * WINDOW_S, "latency is the endpoint's"


async def test_retries_need_a_turn_of_their_own_and_refusals_cost_nothing(
    server: ChatServer,
) -> None:
    settings = config(server.url, **PRICES)
    budget = JudgeBudget(settings)
    (judge,) = judges(server, budget, settings, 1)
    server.script = [status(503), says("{", usage=(60, 10)), says(GOOD, usage=(50, 20))]
    assert (await judge.score(PROMPT, "Thank you.")).valid
    totals = budget.totals()
    assert (totals.requests, totals.unmeasured) == (3, 0)
    assert totals.spent == 140.0, "a malformed answer is paid for like a good one"


async def test_an_answer_without_usage_counts_at_its_most(server: ChatServer) -> None:
    settings = config(server.url, **PRICES)
    budget = JudgeBudget(settings)
    (judge,) = judges(server, budget, settings, 1)
    server.script = [says(GOOD)]
    await judge.score(PROMPT, "Thank you.")
    most = need_of(judge_messages(RUBRIC, PROMPT, "Thank you."), *_longest()).most
    assert budget.totals().unmeasured == 1
    assert budget.totals().spent == most.total


@pytest.mark.parametrize(
    ("usage", "spent"),
    [((-50, 20), 20), ((0, 0), 0), ((10**6, 20), 10**6 + 20), ((10**400, 20), 10**12 + 20)],
)
async def test_a_wrong_count_of_tokens_spoils_no_score(
    server: ChatServer, usage: tuple[int, int], spent: int
) -> None:
    settings = config(server.url, **PRICES)
    budget = JudgeBudget(settings)
    (judge,) = judges(server, budget, settings, 1)
    server.script = [says(GOOD, usage=usage)]
    assert (await judge.score(PROMPT, "Thank you.")).value == 10.0
    assert budget.totals().spent == spent, "what the server bills, as far as it can be"


def _longest() -> tuple[int, dict[str, Any]]:
    return answer_tokens(RUBRIC), answer_schema(RUBRIC)


async def test_parallel_judges_do_not_spend_more_than_the_limit(server: ChatServer) -> None:
    used = (600, 50)
    most = need_of(judge_messages(RUBRIC, PROMPT, "Thank you, 00."), *_longest()).most.total
    assert most > sum(used), "or the server would bill more than a request can use"
    limit = 3 * most + 4 * sum(used)
    settings = config(server.url, max_spend=limit, **PRICES)
    server.script = [says(GOOD, usage=used)]
    shared = judges(server, JudgeBudget(settings), settings)
    scores = await asyncio.gather(
        *(shared[i % 3].score(PROMPT, f"Thank you, {i:02}.") for i in range(60))
    )
    valid = [s for s in scores if s.valid]
    billed = sum(used) * len(server.requests)
    assert len(valid) == len(server.requests)
    assert billed <= limit
    assert limit - billed < most, "as many as surely fit"
    assert all(s.error.startswith("spend_limit: ") for s in scores if not s.valid)
    assert any(not s.valid for s in scores)


async def test_a_repeated_question_makes_no_request(server: ChatServer) -> None:
    settings = config(server.url, cache=True)
    budget = JudgeBudget(settings)
    one, other = judges(server, budget, settings, 2)
    server.script = [says(GOOD)]
    first = await one.score(PROMPT, "Thank you.")
    again = await other.score(Prompt("another id", PROMPT.messages, PROMPT.context), "Thank you.")
    assert (again.value, again.detail) == (first.value, first.detail)
    assert len(server.requests) == 1
    assert budget.totals().cache_hits == 1
    await one.score(PROMPT, "Thank you!")
    assert len(server.requests) == 2
    assert [score.value for _, score in budget.take_new()] == [10.0, 10.0]


async def test_a_failed_question_is_asked_again(server: ChatServer) -> None:
    settings = config(server.url, cache=True, max_retries=0)
    (judge,) = judges(server, JudgeBudget(settings), settings, 1)
    server.script = [says("{"), says(GOOD)]
    assert not (await judge.score(PROMPT, "Thank you.")).valid
    assert (await judge.score(PROMPT, "Thank you.")).valid
    assert len(server.requests) == 2


async def test_without_the_cache_a_repeated_question_is_asked(server: ChatServer) -> None:
    settings = config(server.url)
    (judge,) = judges(server, JudgeBudget(settings), settings, 1)
    server.script = [says(GOOD)]
    for _ in range(2):
        await judge.score(PROMPT, "Thank you.")
    assert len(server.requests) == 2


async def test_a_start_that_is_not_covered_says_so(server: ChatServer) -> None:
    settings = config(server.url, max_spend=1.0, **PRICES)
    (judge,) = judges(server, JudgeBudget(settings), settings, 1)
    server.script = [says("yes")]
    with pytest.raises(JudgeUnavailableError, match="spend_limit"):
        await judge.check()
    assert not server.requests
