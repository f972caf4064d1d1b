"""Predictions against real work that they were not fitted to: SmolLM2-135M on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from repo_ray.benchmark.learning import PROMPT_TOKENS, experiences
from repo_ray.config import Config
from repo_ray.config.load import merge, validate
from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.models.loading import resolve_model
from repo_ray.planning import read_architecture
from repo_ray.planning.work import Load, update_flops
from repo_ray.records import Prompt

SETTINGS = {
    "model": {"attention": "eager", "max_prompt_tokens": 64},
    "lora": {"rank": 32, "alpha": 32},
    "learner": {"micro_batch_tokens": 1024},
}
REPEATS, GROUP = 3, 8


def seconds(config: Config, lengths: Sequence[int]) -> float:
    learner = PPOLearner(config, resolve_model("smollm2-135m"))
    batch = [
        replace(e, prompt=Prompt(f"p{i // GROUP}", ()))
        for i, e in enumerate(experiences(lengths, 0))
    ]
    learner.update(batch)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        assert not learner.update(batch).skipped
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def flops(config: Config, lengths: Sequence[int]) -> float:
    reply = statistics.fmean(lengths)
    load = Load(PROMPT_TOKENS, reply, max(lengths))
    return update_flops(config, read_architecture("smollm2-135m"), load, len(lengths))


@pytest.mark.slow
def test_one_update_predicts_others_of_other_size_length_and_algorithm():
    ppo = validate(SETTINGS, "test")
    group = {"advantage": "group", "group_size": GROUP}
    grpo = validate(merge(SETTINGS, {"algorithm": group}), "test")
    rate = flops(ppo, [64] * 8) / seconds(ppo, [64] * 8)
    for config, lengths in ((ppo, [64] * 16), (ppo, [160] * 8), (grpo, [64] * 16)):
        assert flops(config, lengths) / rate == pytest.approx(seconds(config, lengths), rel=0.35)
