"""Tokens, money, and the limit on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from repo_ray.config.rewards import JudgeConfig
from repo_ray.rewards.judge.spending import SpendMeter, Usage, cost, need_of, usage_of


def config(**settings: Any) -> JudgeConfig:
    place = {"kind": "endpoint", "base_url": "http://x/v1", "model": "m"}
    return JudgeConfig.model_validate(place | settings)


def test_prices_are_per_million_tokens() -> None:
    paid = config(price_per_million_input_tokens=2.0, price_per_million_output_tokens=8.0)
    assert cost(Usage(500_000, 250_000), paid) == 3.0
    assert cost(Usage(500_000, 250_000), config()) == 0.0


@pytest.mark.parametrize("text", ["Would 380 be possible?", "可以便宜一点吗?", "🏨" * 5])
def test_a_prompt_has_at_most_as_many_tokens_as_bytes(text: str) -> None:
    need = need_of([{"role": "user", "content": text}], 30, {"type": "object"})
    assert need.most.input_tokens >= len(text.encode()) + len(json.dumps({"type": "object"}))
    assert need.most.output_tokens == 30
    assert 30 < need.tokens < need.most.total


def answer(usage: dict[str, int] | None) -> ChatCompletion:
    message = {"role": "assistant", "content": "", "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return ChatCompletion.model_validate(body | ({"usage": usage} if usage else {}))


def test_usage_is_what_the_server_says_and_never_negative() -> None:
    said = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    assert usage_of(answer(said)) == Usage(12, 5)
    assert usage_of(answer(said | {"prompt_tokens": -3})) == Usage(0, 5)
    assert usage_of(answer(None)) is None


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 100), st.booleans()), max_size=60),
)
def test_requests_side_by_side_never_spend_more_than_the_limit(
    limit: int, actions: list[tuple[int, int, bool]]
) -> None:
    """Each action asks for a highest cost, then perhaps ends the oldest request, which cost a share
    of its highest."""
    meter = SpendMeter(float(limit))
    under_way: list[tuple[int, int]] = []
    billed = 0.0
    for permit, (most, percent, ends) in enumerate(actions):
        if meter.fits(most):
            meter.reserve(permit, most)
            under_way.append((permit, most))
        if ends and under_way:
            oldest, highest = under_way.pop(0)
            real = highest * percent // 100
            billed += real
            meter.settle(oldest, real)
        assert meter.committed <= limit
        assert meter.spent == billed
        assert meter.committed == billed + sum(most for _, most in under_way)


def test_what_was_spent_before_counts() -> None:
    meter = SpendMeter(10.0, spent=9.0)
    assert meter.fits(1.0)
    assert not meter.fits(1.5)
    assert SpendMeter(None, spent=9e9).fits(1e9)
