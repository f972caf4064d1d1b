"""The forecast of judge calls, computed again by hand."""

from __future__ import annotations

from typing import Any

import pytest

from repo_ray.config.rewards import JudgeConfig
from repo_ray.records import Message, Prompt
from repo_ray.rewards.judge.cost import Part, call_usage, forecast
from repo_ray.rewards.judge.prompt import judge_messages
from repo_ray.rewards.judge.rubric import Criterion, Rubric
from repo_ray.rewards.judge.spending import Usage

RUBRIC = Rubric(
    (Criterion("kind", "The reply is kind.", 10), Criterion("rude", "It is rude.", -40)), "Task."
)
PARTS = [Part("training", 900, Usage(1000, 100)), Part("held-out checks", 100, Usage(2000, 100))]


def config(**settings: Any) -> JudgeConfig:
    place = {"kind": "endpoint", "base_url": "http://x/v1", "model": "m"}
    return JudgeConfig.model_validate(place | settings)


def test_calls_tokens_cost_and_time_by_hand() -> None:
    found = forecast(
        PARTS,
        RUBRIC,
        config(
            requests_per_minute=50,
            tokens_per_minute=40_000,
            price_per_million_input_tokens=2.0,
            price_per_million_output_tokens=10.0,
            max_spend=1.6,
        ),
    )
    assert found.calls == 1000
    assert found.used == Usage(900_000 + 200_000, 100_000)
    assert found.cost == pytest.approx(1.1 * 2 + 0.1 * 10)
    assert found.longest_cost == pytest.approx(2.2 + 1000 * 340 / 1e6 * 10), "100 + 2 * 120 each"
    assert found.minutes == {"requests_per_minute": 20.0, "tokens_per_minute": 30.0}
    assert found.affordable == 500, "half of 3.20"


def test_without_prices_and_limits_nothing_is_said_of_them() -> None:
    found = forecast(PARTS, RUBRIC, config())
    assert (found.cost, found.longest_cost, found.affordable) == (None, None, None)
    assert found.minutes == {}
    assert forecast([], RUBRIC, config()).calls == 0


def test_a_limit_above_the_cost_covers_all_calls() -> None:
    prices = {"price_per_million_input_tokens": 2.0, "price_per_million_output_tokens": 10.0}
    assert forecast(PARTS, RUBRIC, config(max_spend=100.0, **prices)).affordable == 1000


def test_a_call_is_measured_on_the_prompts_with_the_judges_own_words() -> None:
    prompts = [Prompt(f"p{n}", (Message("user", "x" * n),), {}) for n in (100, 300)]
    sizes = [sum(len(m["content"]) for m in judge_messages(RUBRIC, p, "")) for p in prompts]
    bare, longer = (call_usage(RUBRIC, prompts, added).input_tokens for added in (0, 50))
    assert longer - bare == 50
    assert bare > sum(sizes) / 2 / 4, "schema and chat template come on top"
    assert bare < sum(sizes) / 2 / 4 + 400
    one, two = (call_usage(RUBRIC, [p], 0).input_tokens for p in prompts)
    assert two - one == 50, "200 bytes more are 50 tokens"


def test_an_answer_grows_with_the_criteria() -> None:
    prompts = [Prompt("p", (Message("user", "hello"),), {})]
    one = call_usage(RUBRIC.only({"kind"}), prompts, 0).output_tokens
    two = call_usage(RUBRIC, prompts, 0).output_tokens
    assert 15 < one < two < 60
