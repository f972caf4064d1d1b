"""What a run's judge calls will take: arithmetic before anything is started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repo_ray.config.rewards import JudgeConfig
from repo_ray.records import Prompt
from repo_ray.rewards.judge.prompt import answer_schema, answer_tokens, judge_messages
from repo_ray.rewards.judge.rubric import Rubric
from repo_ray.rewards.judge.spending import BYTES_PER_TOKEN, Usage, cost, prompt_tokens

#: A quote as evidence, for every criterion.
EVIDENCE_BYTES = 40


@dataclass(frozen=True)
class Part:
    """Calls of one kind, and the tokens of one of them as a mean."""

    name: str
    calls: int
    each: Usage


@dataclass(frozen=True)
class Forecast:
    """All calls together. `longest_cost`: with every answer as long as it may be; costs are None
    without prices. `minutes` has the time that each rate limit takes for all calls, by its key;
    `affordable` is how many calls `max_spend` covers, None without it."""

    calls: int
    used: Usage
    cost: float | None
    longest_cost: float | None
    minutes: Mapping[str, float]
    affordable: int | None


def call_usage(rubric: Rubric, prompts: Sequence[Prompt], added_tokens: float) -> Usage:
    """Tokens of one call, as a mean over `prompts`: the judge's own instructions around each, and
    `added_tokens` for the reply and whatever else a prompt does not show yet."""
    schema = len(json.dumps(answer_schema(rubric)).encode())
    sizes = [
        sum(len(m["content"].encode()) for m in judge_messages(rubric, prompt, ""))
        for prompt in prompts
    ]
    size = schema + sum(sizes) / len(sizes) + added_tokens * BYTES_PER_TOKEN
    verdict = {"evidence": "x" * EVIDENCE_BYTES, "verdict": False}
    answer = len(json.dumps(dict.fromkeys(rubric.ids, verdict)))
    return Usage(prompt_tokens(round(size)), answer // BYTES_PER_TOKEN)


def forecast(parts: Sequence[Part], rubric: Rubric, config: JudgeConfig) -> Forecast:
    """The sum of all parts under the prices and limits of `config`."""
    calls = sum(part.calls for part in parts)
    used = Usage(
        sum(part.calls * part.each.input_tokens for part in parts),
        sum(part.calls * part.each.output_tokens for part in parts),
    )
    longest = Usage(used.input_tokens, calls * answer_tokens(rubric))
    priced = config.price_per_million_input_tokens is not None
    expected = cost(used, config) if priced else None
    minutes = {}
    if config.requests_per_minute is not None:
        minutes["requests_per_minute"] = calls / config.requests_per_minute
    if config.tokens_per_minute is not None:
        minutes["tokens_per_minute"] = used.total / config.tokens_per_minute
    affordable = None
    if config.max_spend is not None and expected:
        affordable = min(calls, round(calls * config.max_spend / expected))
    return Forecast(
        calls, used, expected, cost(longest, config) if priced else None, minutes, affordable
    )
