"""What grows with what: a small simulated system; curves, page and job by hand."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from repo_ray.benchmark.growth import SimulatedPoint, curves, write_page
from repo_ray.benchmark.growth_simulated import (
    SHAPES,
    delays_alone,
    measure_steps,
    over_engines,
    over_judges,
    simulated_curves,
)
from repo_ray.benchmark.planned import Comparison
from repo_ray.benchmark.simulated import Delays
from repo_ray.benchmark.simulation import Shape
from repo_ray.config.load import validate
from repo_ray.planning.measured import Measured
from repo_ray.planning.work import Load

JOB = Path(__file__).parents[2] / "jobs" / "growth.py"
MACHINE = {"hardware": "h", "torch": "1", "transformers": "2"}


def compared(
    tree: dict[str, Any], shape: str, reply: float, collect_s: float, predicted: float | None = None
) -> Comparison:
    config = validate(
        tree | {"run": tree["run"] | {"batch_size": 8 if "-8" in shape else 16}}, "test"
    )
    made = Measured(config, Load(99, reply, 64), 2, collect_s, 2.0, 1.0, collect_s + 3)
    return Comparison(shape, made, {"step": predicted} if predicted else {})


@pytest.fixture
def real(tiny_tree: dict[str, Any]) -> list[Comparison]:
    return [
        compared(tiny_tree, "base", 60, 5.0),
        compared(tiny_tree, "samples-8", 62, 3.0, 6.6),
        compared(tiny_tree, "base", 60, 7.0),
        compared(tiny_tree, "tokens-16", 15, 1.5, 4.0),
        compared(tiny_tree, "base", 60, 5.2),
    ]


SIMULATED = [
    SimulatedPoint("engines", 32, 2, 128, 12.0, 10.0, 2.5),
    SimulatedPoint("engines", 8, 1, 32, 8.0, 7.5, 9.0),
    SimulatedPoint("judges", 64, 1, 256, 18.0, 17.0, 2.0),
]


def test_each_curve_has_the_shapes_of_its_name_and_the_medians_of_the_base(
    real: list[Comparison],
) -> None:
    phases, step, _, tokens = curves(real)
    assert phases.lines["sample and score"] == [(8, 3.0), (16, 5.2)]
    assert phases.lines["push and verify"] == [(8, 1.0), (16, 1.0)]
    assert step.lines == {"measured": [(8, 6.0), (16, 8.2)], "predicted": [(8, 6.6), (16, 8.2)]}
    assert tokens.lines["predicted"] == [(15, 4.0), (60, 8.2)]
    assert curves(real[:1]) == []


def test_the_page_draws_what_it_is_given(tmp_path: Path, real: list[Comparison]) -> None:
    write_page(tmp_path / "page.html", MACHINE, real, [], [])
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4
    assert page.count('class="c3 mean"') == 2
    row = (
        r"<td>samples-8</td><td>8</td><td>62</td><td>3\.00</td><td></td><td>2\.00</td><td></td>"
        r"<td>1\.00</td><td></td><td>6\.00</td><td>6\.60</td><td>\+10%</td>"
    )
    assert re.search(row, page)
    assert "made 3 times" in page
    assert "imulated" not in page


def test_delays_alone_are_the_slowest_sample_or_the_queue_for_the_judges() -> None:
    # 12 samples after 1 s; 2 judges x 3 slots take 2 s for each half of them.
    delays = Delays(1.0, 2.0, 0.5, 0.25, sigma=0.0, update_sigma=0.0)
    shape = Shape(4, slots=3, judges=2, scorer_slots=3, batch=12, delays=delays)
    assert delays_alone(shape, 0) == pytest.approx(1 + 2 + 2 + 0.75)
    assert delays_alone(replace(shape, judges=4), 0) == pytest.approx(1 + 2 + 0.75)
    assert delays_alone(replace(shape, judges=1), 0) == pytest.approx(1 + 4 * 2 + 0.75)
    unequal = replace(shape, judges=4, delays=replace(delays, score_s=0.0, sigma=0.5))
    slowest = max(unequal.delays.sample(f"3-{i}-0") for i in range(12))
    assert delays_alone(unequal, 3) == pytest.approx(slowest + 0.75)
    with pytest.raises(ValueError, match="12 in 9 slots"):
        delays_alone(replace(shape, engines=3), 0)


def test_the_load_per_engine_stays_and_judges_are_the_bottleneck_at_first() -> None:
    for engines in (8, 64, 512):
        shape = over_engines(engines)
        assert shape.batch == shape.in_flight == 4 * engines
        assert shape.judges * shape.scorer_slots >= shape.batch
    few, more, many, most = (delays_alone(over_judges(n), 1) for n in (1, 2, 16, 64))
    assert few > 16.0
    assert more < 0.6 * few
    assert many == most < 0.5 * more


def test_a_simulated_step_takes_its_delays_and_little_more() -> None:
    delays = Delays(0.5, 0.2, 0.2, 0.1, update_sigma=0.05)
    shape = Shape(4, slots=3, judges=1, scorer_slots=4, tokens=4, batch=12, staleness=0)
    shape = replace(shape, delays=delays)
    found = asyncio.run(measure_steps("judges", shape, 1))
    assert (found.curve, found.engines, found.judges, found.samples) == ("judges", 4, 1, 12)
    assert found.alone_s == delays_alone(shape, 1) > 0.3 + 3 * 0.1
    assert found.alone_s - 0.05 < found.seconds < found.alone_s + 3.0
    assert 0 < found.cpu_ms * 12 < 1e3 * 4 * found.seconds


def test_simulated_curves_are_drawn_where_there_are_points() -> None:
    step, cpu, *judges = simulated_curves(SIMULATED)
    assert step.lines["measured"] == [(8, 8.0), (32, 12.0)]
    assert step.lines["the delays alone"] == [(8, 7.5), (32, 10.0)]
    assert cpu.lines == {"measured": [(8, 9.0), (32, 2.5)], "as with 8": [(8, 9.0), (32, 9.0)]}
    assert [curve.lines["measured"] for curve in judges] == [[(1, 18.0)], [(1, 2.0)]]
    assert simulated_curves([]) == curves([]) == []


def test_curves_measured_one_after_the_other_share_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points that are there are not measured again, and the page has those of other curves too."""
    for point in SIMULATED:
        size = getattr(point, point.curve)
        (tmp_path / f"{point.curve}-{size}.json").write_text(json.dumps(asdict(point)))
    spec = importlib.util.spec_from_file_location("job_growth", JOB)
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    arguments = ["growth.py", "--out", str(tmp_path), "--curves"]
    monkeypatch.setattr("sys.argv", [*arguments, "engines", "--engines", "8", "32"])
    assert job.main() == 0
    page = (tmp_path / "growth.html").read_text()
    assert page.count("<svg") == 4
    assert "simulated delays" in page
    assert "real steps" not in page
    monkeypatch.setattr("sys.argv", [*arguments, "judges", "--judges", "1"])
    assert job.main() == 0
    assert (tmp_path / "growth.html").read_text() == page
    assert set(SHAPES) < set(job.CURVES)
