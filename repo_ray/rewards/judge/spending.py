"""Tokens as money: what requests cost, what they may cost at most, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_ray.config.rewards import JudgeConfig

if TYPE_CHECKING:  # every scorer imports this file, and few of them a client (0.4 s)
    from openai.types.chat import ChatCompletion

#: About as many bytes of UTF-8 are a token, in English as in Chinese.
BYTES_PER_TOKEN = 4
#: What a chat template adds to the messages, at most.
TEMPLATE_TOKENS = 64
#: No request has more; a count beyond it is an error, and one beyond 1e308 has no price.
MOST_TOKENS = 10**12


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request: prompt and answer."""

    input_tokens: int
    output_tokens: int

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Need:
    """What a request will take, before it is made: tokens as a rate limit counts them beforehand,
    and what it can use at most."""

    tokens: int
    most: Usage


def need_of(
    messages: Sequence[Mapping[str, str]], max_tokens: int, schema: Mapping[str, Any]
) -> Need:
    """A token is never shorter than a byte, which bounds the prompt; servers may put the answer's
    schema into it. The answer counts at its longest either way.
    """
    size = sum(len(m["content"].encode()) for m in messages) + len(json.dumps(schema).encode())
    return Need(prompt_tokens(size) + max_tokens, Usage(size + TEMPLATE_TOKENS, max_tokens))


def prompt_tokens(size: int) -> int:
    """A guess at the tokens of a prompt of `size` bytes, template included."""
    return size // BYTES_PER_TOKEN + TEMPLATE_TOKENS


def usage_of(answer: ChatCompletion) -> Usage | None:
    """What the server says it has counted, within 0 and `MOST_TOKENS`; None if it does not say."""
    if answer.usage is None:
        return None
    counts = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return Usage(*(min(max(0, count), MOST_TOKENS) for count in counts))


def cost(used: Usage, config: JudgeConfig) -> float:
    """In the currency of the config's prices; 0 without prices."""
    prices = (config.price_per_million_input_tokens, config.price_per_million_output_tokens)
    amounts = (used.input_tokens, used.output_tokens)
    return sum(n * (price or 0.0) for n, price in zip(amounts, prices, strict=True)) / 1e6


class SpendMeter:
    """What was spent, and what requests under way may cost at most.

    A request is made only if its highest cost is still free, so requests side by side cannot
    overspend together.
    """

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit = limit
        self.spent = spent
        self._reserved: dict[int, float] = {}

    @property
    def committed(self) -> float:
        """Spent, and reserved for requests whose cost is not known yet."""
        return self.spent + sum(self._reserved.values())

    def fits(self, most: float) -> bool:
        return self.limit is None or self.committed + most <= self.limit

    def reserve(self, permit: int, most: float) -> None:
        self._reserved[permit] = most

    def settle(self, permit: int, cost: float) -> None:
        """The request is over and had this cost."""
        del self._reserved[permit]
        self.spent += cost
