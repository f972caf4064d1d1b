"""What the controller costs and how busy it keeps the engines, for any number of them.

Steady state. A batch ends with its slowest sample, and the engines must have work until then: with
lognormal delays (`Delays`), six to seven times the mean. `steady` therefore makes batches of half
of the engines' slots, and lets enough of them be open at once for more samples than the engines
finish in that time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.simulated import Delays
from repo_ray.benchmark.simulation import Shape, running
from repo_ray.config.settings import Config

#: Their samples, 20 to an engine, fill half of a scorer's slots.
ENGINES_PER_JUDGE = 16
#: Twice the mean of a sample: by then the slots no longer start and end together.
RAMP_S = 60.0
#: Engines that take an adapter while they sample: one that drains is idle for a while at each push,
#: whatever the controller does.
CONTINUOUS = Delays(drains=False)


def steady(engines: int, judges: int, delays: Delays = CONTINUOUS) -> Shape:
    """A shape whose engines always have work (see the top of this file)."""
    batch = engines * Shape.slots // 2
    return Shape(engines, judges=judges, batch=batch, staleness=19, delays=delays)


@dataclass(frozen=True)
class Measured:
    """A stretch of steady state. `busy_share` is of the engines: the delays of their samples over
    slots x time. `cpu_s_per_sample` is the CPU time of the controller's process, all threads,
    over the samples that engines finished."""

    engines: int
    judges: int
    seconds: float
    samples: int
    steps: int
    busy_share: float
    cpu_s_per_sample: float


async def measure(shape: Shape, ramp_s: float, window_s: float) -> Measured:
    """Trains for `ramp_s` seconds unmeasured and `window_s` measured."""
    async with running(shape) as (system, training, _):

        async def until(moment: float) -> None:
            await asyncio.wait({training}, timeout=moment - time.monotonic())
            if training.done():
                training.result()
                raise RuntimeError("the training ended before it was measured")

        began = time.monotonic()
        await until(began + ramp_s)
        first, cpu, calls = time.monotonic(), time.process_time(), system.rollout.stats().calls
        version = system.version
        await until(first + window_s)
        last, samples = time.monotonic(), system.rollout.stats().calls - calls
        cpu = time.process_time() - cpu
        steps = system.version - version
        busy_s = await system.engines.busy_s.remote(first, last)
        return Measured(
            shape.engines,
            shape.judges,
            last - first,
            samples,
            steps,
            busy_s / (shape.in_flight * (last - first)),
            cpu / samples,
        )


@contextmanager
def busy(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """How busy 512 engines with 10,240 samples in flight are kept; theirs: always. Neither the
    configuration nor the model is used."""

    def share() -> float:
        return asyncio.run(measure(steady(512, 512 // ENGINES_PER_JUDGE), RAMP_S, 120.0)).busy_share

    yield share, lambda: 1.0


@contextmanager
def cost(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """Milliseconds of the controller's CPU time that a sample costs, with 512 engines and with 8."""

    def milliseconds(engines: int) -> Work:
        judges = max(1, engines // ENGINES_PER_JUDGE)
        shape = steady(engines, judges)
        return lambda: 1e3 * asyncio.run(measure(shape, RAMP_S, 60.0)).cpu_s_per_sample

    yield milliseconds(512), milliseconds(8)
