"""A whole REPO step: policy and value network, reward model, rules, and perhaps the judge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.running import training
from repo_ray.benchmark.steps import GROUP, PROMPTS, SETTLING, trl
from repo_ray.config.settings import Config
from repo_ray.records import Message, Prompt


@contextmanager
def step_without_judge(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """16 samples of up to 64 tokens for the prompts that TRL gets, and as often."""
    with _against_trl(config, model, judge=False) as sides:
        yield sides


@contextmanager
def step_with_judge(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """The embedded judge scores every sample as well."""
    with _against_trl(config, model, judge=True) as sides:
        yield sides


@contextmanager
def _against_trl(config: Config, model: Path, judge: bool) -> Iterator[tuple[Work, Work]]:
    judged = config.judge.model_copy(update={"enabled": judge})
    config = config.model_copy(update={"judge": judged})
    with training(config, model, prompts()) as ours, trl(model) as theirs:
        for _ in range(SETTLING):
            ours.step()

        def step() -> float:
            ours.step()
            return config.run.batch_size

        def trl_step() -> float:
            theirs()
            return len(PROMPTS) * GROUP

        yield step, trl_step


def prompts() -> list[Prompt]:
    """Those of TRL's."""
    return [Prompt(f"p{i}", (Message("user", text),)) for i, text in enumerate(PROMPTS)]
