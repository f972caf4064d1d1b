"""How much of the shorter of generation and learning a staleness of 1 hides behind the longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.simulated import Delays
from repo_ray.benchmark.simulation import Shape, running
from repo_ray.config.settings import Config
from repo_ray.training.metrics import read_metrics


@dataclass(frozen=True)
class Overlap:
    """Two runs with the same delays, of `steps` steps: seconds at staleness 0 and at staleness 1.

    `collect_s` and `update_s` are what each step of the first run generated (scores included) and
    learned, one after the other.
    """

    synchronous_s: float
    overlapped_s: float
    collect_s: Sequence[float]
    update_s: Sequence[float]

    @property
    def bound_s(self) -> float:
        """Seconds with nothing left but the larger of all generation and all learning, and what
        has no company: the first step's generation, the last one's learning."""
        generation, learning = sum(self.collect_s), sum(self.update_s)
        return max(generation + self.update_s[-1], self.collect_s[0] + learning)

    @property
    def share(self) -> float:
        """(T0 - T1) / (T0 - bound): 0 saves nothing, 1 leaves only the larger of the two.

        What a step does besides, the push above all, counts against it. More than 1 is possible:
        a batch's first samples are generated in the slots that the one before leaves idle while
        it waits for its slowest, which none can at staleness 0.
        """
        saved = self.synchronous_s - self.overlapped_s
        return saved / (self.synchronous_s - self.bound_s)


#: 64 samples on 8 engines, drained before each push; generation takes about 5 s a step. A learner's
#: time hardly varies, and a push takes a thirtieth of a step, as on two cores (README).
SHAPE = Shape(
    engines=8,
    slots=8,
    judges=4,
    batch=64,
    delays=Delays(sample_s=1.5, score_s=0.2, update_s=3.0, push_s=0.1, update_sigma=0.05),
)
STEPS = 10


async def overlap(shape: Shape, steps: int) -> Overlap:
    """Runs `steps` steps of that shape at staleness 0, then at 1."""
    seconds: list[float] = []
    rows = []
    for staleness in (0, 1):
        async with running(replace(shape, staleness=staleness), steps) as (_, training, root):
            began = time.monotonic()
            await training
            seconds.append(time.monotonic() - began)
            rows.append(read_metrics(root))
    collect_s, update_s = (
        [row[f"time/{what}_s"] for row in rows[0]] for what in ("collect", "update")
    )
    return Overlap(seconds[0], seconds[1], collect_s, update_s)


@contextmanager
def against_larger(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """The share of what could be saved that is; theirs: all. Neither the configuration nor the
    model is used."""
    yield lambda: asyncio.run(overlap(SHAPE, STEPS)).share, lambda: 1.0
