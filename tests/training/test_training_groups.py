"""Groups: a prompt's replies are neighbours in a batch and are sampled with different seeds."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.config import ConfigError
from repo_ray.config.settings import Config, RunConfig
from repo_ray.records import Prompt, Rollout, Score
from repo_ray.training.collect import Collector
from repo_ray.training.schedule import Schedule


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", ()) for i in range(count)]


@given(st.integers(1, 25), st.integers(1, 3), st.integers(1, 5), st.integers(2, 6))
def test_every_prompt_is_sampled_as_a_group_once_per_epoch(
    count: int, epochs: int, per_step: int, size: int
) -> None:
    run = RunConfig(epochs=epochs, batch_size=per_step * size)
    schedule = Schedule.of(prompts(count), run, size)
    assert schedule.steps == math.ceil(count * epochs / per_step)
    batches = [[p.prompt_id for p in schedule.batch(step)] for step in range(schedule.steps)]
    assert all(len(batch) == per_step * size for batch in batches[:-1])
    assert sum(map(len, batches)) == count * epochs * size
    for batch in batches:
        for at in range(0, len(batch), size):
            assert len(set(batch[at : at + size])) == 1
    flat = [prompt_id for batch in batches for prompt_id in batch]
    assert Counter(flat) == {f"p{i}": epochs * size for i in range(count)}


def test_groups_take_the_prompts_in_the_order_of_single_samples() -> None:
    single = Schedule.of(prompts(10), RunConfig(epochs=1, batch_size=10, seed=4), 1).batch(0)
    grouped = Schedule.of(prompts(10), RunConfig(epochs=1, batch_size=8, seed=4), 4)
    flat = [p.prompt_id for step in range(grouped.steps) for p in grouped.batch(step)]
    assert [prompt_id for prompt_id, _ in groupby(flat)] == [p.prompt_id for p in single]


def test_steps_beyond_the_prompts_are_refused_with_the_group_size() -> None:
    run = RunConfig(epochs=1, batch_size=8, steps=3)
    with pytest.raises(ConfigError, match=r"4 samples per prompt, give 2 steps"):
        Schedule.of(prompts(4), run, 4)
    with pytest.raises(ConfigError, match=r"divisible by the group size \(3\)"):
        Schedule.of(prompts(4), run, 3)


def test_a_groups_samples_have_different_ids_and_seeds() -> None:
    class Rollouts:
        def __init__(self) -> None:
            self.calls: list[tuple[Any, ...]] = []

        async def call(self, method: str, sample_id: str, prompt_id: str, *rest: Any) -> Rollout:
            self.calls.append((sample_id, prompt_id, rest[-1]))
            reply = ((1,), (7,), (True,), (-0.5,), (0,), "stop", "text")
            return Rollout(sample_id, prompt_id, rest[0], *reply)

    class Rules:
        async def call(self, method: str, *args: Any) -> Score:
            return Score("rules", 0.0)

    rollouts = Rollouts()
    config = Config.model_validate({"reward_model": {"enabled": False}})
    collector = Collector(config, rollouts, {"rules": Rules()}, lambda prompt: [1])  # type: ignore[arg-type, dict-item]
    batch = Schedule.of(prompts(2), RunConfig(batch_size=8), 4).batch(0)
    collected = asyncio.run(collector.batch(0, batch))
    assert [e.prompt.prompt_id for e in collected.experiences] == [p.prompt_id for p in batch]
    assert collected.ledger.issued == collected.ledger.consumed == 8
    ids, names, seeds = zip(*rollouts.calls, strict=True)
    assert Counter(names) == {"p0": 4, "p1": 4}
    assert len(set(ids)) == len(set(seeds)) == 8
