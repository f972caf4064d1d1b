"""Which prompts form which step: fixed by the seed, never by the order of completion."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from repo_ray.config.settings import RunConfig
from repo_ray.records import Prompt


@dataclass(frozen=True)
class Schedule:
    """The prompts of every step of a run.

    Each epoch is a fresh seeded permutation; epochs follow each other without a gap, so only
    the very last batch may be smaller than `batch_size`.
    """

    prompts: Sequence[Prompt]
    epochs: int
    batch_size: int
    seed: int
    steps: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt], run: RunConfig) -> Schedule:
        """Raises ValueError when there are no prompts or fewer than `run.steps` needs."""
        if not prompts:
            raise ValueError("no training prompts")
        available = math.ceil(len(prompts) * run.epochs / run.batch_size)
        if run.steps is not None and run.steps > available:
            raise ValueError(
                f"run.steps is {run.steps}, but {len(prompts)} prompts in {run.epochs} epochs of "
                f"batch size {run.batch_size} give {available} steps: raise run.epochs"
            )
        return cls(prompts, run.epochs, run.batch_size, run.seed, run.steps or available)

    def batch(self, step: int) -> list[Prompt]:
        """The prompts of step `step` (0-based), in the order in which they form the batch."""
        count = len(self.prompts)
        start = step * self.batch_size
        positions = range(start, min(start + self.batch_size, count * self.epochs))
        orders = {epoch: self._order(epoch) for epoch in {p // count for p in positions}}
        return [self.prompts[orders[p // count][p % count]] for p in positions]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order
