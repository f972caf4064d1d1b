"""How the time of a step grows with what goes into it: real steps, and one page for every curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from repo_ray.benchmark.planned import Comparison, summary
from repo_ray.evaluation import charts
from repo_ray.planning.measured import Measured

#: Phases of a step, as `Measured` and as the page names them.
PHASES = {"collect_s": "sample and score", "update_s": "update", "push_s": "push and verify"}


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


#: What grows: the shapes of `planned.SHAPES` that begin so, and its size in a run.
_SIZES: Mapping[str, Callable[[Measured], float]] = {
    "samples": lambda run: run.config.run.batch_size,
    "tokens": lambda run: run.load.reply,
}
_NOTE = {"samples": "samples of a step", "tokens": "sampled tokens of a reply, the mean"}


@dataclass(frozen=True)
class _Point:
    """Runs of one size, and the seconds that were predicted for their step."""

    size: float
    runs: Sequence[Measured]
    predicted_s: float

    def seconds(self, field: str) -> float:
        return median(getattr(run, field) for run in self.runs)


def curves(compared: Sequence[Comparison]) -> list[Curve]:
    """Over the samples and over the tokens of a reply (the mean), where there are such shapes.

    Among them is the base run, by its medians over all turns; nothing predicts it.
    """
    bases = [c.run for c in compared if not c.predicted]
    drawn: list[Curve] = []
    for what, size in _SIZES.items():
        shapes = [c for c in compared if c.predicted and c.shape.startswith(what)]
        if not shapes:
            continue
        points = [_Point(size(c.run), [c.run], c.predicted["step"]) for c in shapes]
        usual = median(run.step_s for run in bases)
        points.append(_Point(median(size(run) for run in bases), bases, usual))
        points.sort(key=lambda point: point.size)
        phases = {label: [(p.size, p.seconds(f)) for p in points] for f, label in PHASES.items()}
        step = {
            "measured": [(p.size, p.seconds("step_s")) for p in points],
            "predicted": [(p.size, p.predicted_s) for p in points],
        }
        drawn += [
            Curve(f"{what.capitalize()}: seconds of each phase", _NOTE[what], phases),
            Curve(f"{what.capitalize()}: seconds of a step", _NOTE[what], step),
        ]
    return drawn


def write_page(
    path: Path,
    machine: Mapping[str, str],
    compared: Sequence[Comparison],
    simulated: Sequence[SimulatedPoint],
    simulated_drawn: Sequence[Curve],
) -> None:
    """One self-contained page: curves of real steps and of simulated ones, and all points."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(charts.__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("growth.html.j2").render(
        machine=machine,
        cards=[_card(curve) for curve in curves(compared)],
        compared=compared,
        summary=summary(compared),
        simulated_cards=[_card(curve) for curve in simulated_drawn],
        simulated=simulated,
    )
    path.write_text(page, encoding="utf-8")


def _card(curve: Curve) -> dict[str, Any]:
    series = [charts.Series(label, line) for label, line in curve.lines.items()]
    svg = charts.line_chart(series, curve.title, sizes=True, log_x=curve.log_x)
    return {**asdict(curve), "svg": svg}
