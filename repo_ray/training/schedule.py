"""Which prompts form which step: fixed by the seed, never by the order of completion."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from repo_ray.config import ConfigError
from repo_ray.config.settings import RunConfig
from repo_ray.records import Prompt


@dataclass(frozen=True)
class Schedule:
    """The prompts of every step of a run, one for each sample.

    Each epoch is a fresh seeded permutation; epochs follow each other without a gap, so only
    the very last batch may be smaller than `batch_size` samples. Each prompt is sampled
    `group_size` times: it stands that often in its batch, next to itself.
    """

    prompts: Sequence[Prompt]
    epochs: int
    batch_size: int
    group_size: int
    seed: int
    steps: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt], run: RunConfig, group_size: int) -> Schedule:
        """`group_size` is `algorithm.group_size` and divides `run.batch_size`.

        Raises `ConfigError` when it does not, or when there are no prompts or fewer than
        `run.steps` needs.
        """
        if not prompts:
            raise ConfigError("no training prompts")
        if run.batch_size % group_size:
            raise ConfigError(
                f"run.batch_size ({run.batch_size}) must be divisible by the group size "
                f"({group_size})"
            )
        available = math.ceil(len(prompts) * run.epochs * group_size / run.batch_size)
        if run.steps is not None and run.steps > available:
            groups = f", {group_size} samples per prompt," if group_size > 1 else ""
            raise ConfigError(
                f"run.steps is {run.steps}, but {len(prompts)} prompts in {run.epochs} epochs of "
                f"batch size {run.batch_size}{groups} give {available} steps: raise run.epochs"
            )
        return cls(
            prompts, run.epochs, run.batch_size, group_size, run.seed, run.steps or available
        )

    def batch(self, step: int) -> list[Prompt]:
        """The prompts of step `step` (0-based), in the order in which they form the batch."""
        count = len(self.prompts)
        size = self.batch_size // self.group_size
        positions = range(step * size, min((step + 1) * size, count * self.epochs))
        orders = {epoch: self._order(epoch) for epoch in {p // count for p in positions}}
        prompts = [self.prompts[orders[p // count][p % count]] for p in positions]
        return [prompt for prompt in prompts for _ in range(self.group_size)]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order
