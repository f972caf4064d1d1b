"""How the time of a step grows with what goes into it: real steps, and one page for every curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from repo_ray.benchmark.running import training
from repo_ray.benchmark.whole import prompts
from repo_ray.config.settings import Config
from repo_ray.evaluation import charts

#: Phases of a step, as `metrics.jsonl` and as the page names them.
PHASES = {
    "time/collect_s": "sample and score",
    "time/update_s": "update",
    "time/push_s": "push and verify",
}


@dataclass(frozen=True)
class Point:
    """Steps of one size: medians of each phase's seconds; `tokens` sampled per reply, the mean.

    Replies may end before `max_new_tokens`.
    """

    samples: int
    max_new_tokens: int
    tokens: float
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class SimulatedPoint:
    """Steps of one shape, a point of `curve` (`growth_simulated.SHAPES`); medians.

    `seconds` are a whole step's, `alone_s` what its delays take without a controller, and `cpu_ms` the
    CPU time of the controller's process, all threads, per sample.
    """

    curve: str
    engines: int
    judges: int
    samples: int
    seconds: float
    alone_s: float
    cpu_ms: float


@dataclass(frozen=True)
class Curve:
    """One chart: lines of (x, y) by label. `log_x` gives doublings of x the same space."""

    title: str
    note: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False


def measure_point(
    config: Config, model: Path, samples: int, max_new_tokens: int, steps: int
) -> Point:
    """`steps` steps of a whole system, after one that is not counted."""
    sized = {
        "run": config.run.model_copy(update={"batch_size": samples}),
        "sampling": config.sampling.model_copy(update={"max_new_tokens": max_new_tokens}),
    }
    with training(config.model_copy(update=sized), model, prompts()) as system:
        for _ in range(steps + 1):
            system.step()
        rows = system.finish()[1:]
    return Point(
        samples,
        max_new_tokens,
        median(row["reply/tokens"] for row in rows),
        {phase: median(row[phase] for row in rows) for phase in PHASES},
    )


def curves(points: Sequence[Point], samples: int, max_new_tokens: int) -> list[Curve]:
    """Over the samples at `max_new_tokens`, and over the tokens at `samples`, where there are any."""
    by_samples = sorted(
        (p for p in points if p.max_new_tokens == max_new_tokens), key=lambda p: p.samples
    )
    by_tokens = sorted((p for p in points if p.samples == samples), key=lambda p: p.tokens)
    drawn = [
        Curve(
            "Samples per step",
            f"seconds of each phase; replies of up to {max_new_tokens} tokens",
            _lines(by_samples, [p.samples for p in by_samples]),
        ),
        Curve(
            "Tokens per reply",
            f"seconds of each phase; {samples} samples, x is the mean that was sampled",
            _lines(by_tokens, [p.tokens for p in by_tokens]),
        ),
    ]
    return [curve for curve in drawn if any(curve.lines.values())]


def _lines(
    points: Sequence[Point], xs: Sequence[float]
) -> dict[str, Sequence[tuple[float, float]]]:
    return {
        label: [(x, p.seconds[phase]) for x, p in zip(xs, points, strict=True)]
        for phase, label in PHASES.items()
    }


def write_page(
    path: Path,
    machine: Mapping[str, str],
    points: Sequence[Point],
    drawn: Sequence[Curve],
    simulated: Sequence[SimulatedPoint] = (),
    simulated_drawn: Sequence[Curve] = (),
) -> None:
    """One self-contained page: the curves of real steps and of simulated ones, and their points in
    tables."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(charts.__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("growth.html.j2").render(
        machine=machine,
        cards=[_card(curve) for curve in drawn],
        points=points,
        phases=PHASES,
        simulated_cards=[_card(curve) for curve in simulated_drawn],
        simulated=simulated,
    )
    path.write_text(page, encoding="utf-8")


def _card(curve: Curve) -> dict[str, Any]:
    series = [charts.Series(label, line) for label, line in curve.lines.items()]
    svg = charts.line_chart(series, curve.title, sizes=True, log_x=curve.log_x)
    return {**asdict(curve), "svg": svg}
