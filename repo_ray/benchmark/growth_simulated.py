"""How a step grows with engines and with judges: the real controller and pools over simulated
delays, beside what the delays take by themselves.

Every step is synchronous: sampling and scoring, then the update, then the push.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapreplace
from itertools import pairwise
from statistics import median
from typing import Any

from repo_ray.benchmark.growth import Curve, SimulatedPoint
from repo_ray.benchmark.scale import ENGINES_PER_JUDGE
from repo_ray.benchmark.simulated import Delays, reply
from repo_ray.benchmark.simulation import Shape, running
from repo_ray.training.collect import SOURCES
from repo_ray.training.metrics import read_metrics

#: Samples that every engine has at once, so that the batch grows with the engines.
SLOTS = 4


def over_engines(engines: int) -> Shape:
    """So many judges that no score waits: one more engine brings its own samples and scorers."""
    return Shape(
        engines,
        SLOTS,
        judges=max(1, engines // ENGINES_PER_JUDGE),
        batch=SLOTS * engines,
        staleness=0,
        delays=Delays(sample_s=3.0, score_s=0.3, update_s=1.0, push_s=0.1, update_sigma=0.05),
    )


def over_judges(judges: int) -> Shape:
    """One judge needs 16 s for the scores of a batch, sixteen of them 1 s."""
    return Shape(
        64,
        SLOTS,
        judges=judges,
        scorer_slots=8,
        batch=SLOTS * 64,
        staleness=0,
        delays=Delays(sample_s=1.0, score_s=0.5, update_s=0.5, push_s=0.1, update_sigma=0.05),
    )


#: Curves by what grows along them; the names are those of the fields of `SimulatedPoint`.
SHAPES: Mapping[str, Callable[[int], Shape]] = {"engines": over_engines, "judges": over_judges}


def delays_alone(shape: Shape, step: int) -> float:
    """Seconds that step `step` (from 0) takes if a controller and its calls cost nothing.

    Every sample starts at once, so the engines must have a slot for each (`ValueError`). Its
    scores queue for their source's scorers, first come, first served.
    """
    if shape.batch > shape.in_flight:
        raise ValueError(f"a batch of {shape.batch} in {shape.in_flight} slots of the engines")
    delays = shape.delays
    ids = [f"{step}-{position}-0" for position in range(shape.batch)]
    sampled = sorted((delays.sample(name), reply(name, shape.tokens)) for name in ids)
    collected = 0.0
    for source in SOURCES:
        free = [0.0] * (shape.judges * shape.scorer_slots)
        for arrived, text in sampled:
            end = max(arrived, free[0]) + delays.score(source, text)
            heapreplace(free, end)
            collected = max(collected, end)
    return collected + delays.update(step) + delays.push_s


async def measure_steps(curve: str, shape: Shape, steps: int) -> SimulatedPoint:
    """`steps` steps of that shape, a point of `curve`, after one that is not counted."""

    async def noted(updates: int) -> Mapping[str, Any]:
        return {"cpu_s": time.process_time()}

    async with running(shape, steps + 1, noted) as (_, training, root):
        await training
        rows = read_metrics(root)
    return SimulatedPoint(
        curve,
        shape.engines,
        shape.judges,
        shape.batch,
        median(row["time/step_s"] for row in rows[1:]),
        median(delays_alone(shape, step) for step in range(1, steps + 1)),
        1e3 * median(b["cpu_s"] - a["cpu_s"] for a, b in pairwise(rows)) / shape.batch,
    )


def simulated_curves(points: Sequence[SimulatedPoint]) -> list[Curve]:
    """Step and CPU time over the engines and over the judges, where there are points."""
    return [*_over("engines", points), *_over("judges", points)]


def _over(name: str, points: Sequence[SimulatedPoint]) -> Iterator[Curve]:
    of = sorted((p for p in points if p.curve == name), key=lambda p: getattr(p, name))
    if not of:
        return
    shape = SHAPES[name](getattr(of[0], name))
    title = name.capitalize()
    delays = f"means: {shape.delays.sample_s:g} s a sample, {shape.delays.score_s:g} s a score"
    load = {
        "engines": f"{shape.slots} samples to an engine, a judge for every {ENGINES_PER_JUDGE}",
        "judges": f"{shape.batch} samples; a judge takes {shape.scorer_slots} at once",
    }[name]

    def line(field: str) -> list[tuple[float, float]]:
        return [(getattr(p, name), getattr(p, field)) for p in of]

    yield Curve(
        f"{title}: seconds of a step",
        f"simulated delays; {load}; {delays}",
        {"measured": line("seconds"), "the delays alone": line("alone_s")},
        log_x=True,
    )
    flat = [(x, of[0].cpu_ms) for x, _ in line("cpu_ms")]
    yield Curve(
        f"{title}: the controller's CPU time, ms per sample",
        f"simulated delays; {load}",
        {"measured": line("cpu_ms"), f"as with {getattr(of[0], name)}": flat},
        log_x=True,
    )
