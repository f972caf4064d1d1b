"""What grows with what: points of a small real and a small simulated system; curves, page and job by
hand."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from repo_ray.benchmark.growth import (
    PHASES,
    Curve,
    Point,
    SimulatedPoint,
    curves,
    measure_point,
    write_page,
)
from repo_ray.benchmark.growth_simulated import (
    SHAPES,
    delays_alone,
    measure_steps,
    over_engines,
    over_judges,
    simulated_curves,
)
from repo_ray.benchmark.simulated import Delays
from repo_ray.benchmark.simulation import Shape
from repo_ray.config.load import validate

COLLECT, UPDATE, PUSH = PHASES
JOB = Path(__file__).parents[2] / "jobs" / "growth.py"
MACHINE = {"hardware": "h", "torch": "1", "transformers": "2"}


def point(samples: int, max_new_tokens: int, tokens: float, collect: float) -> Point:
    return Point(samples, max_new_tokens, tokens, {COLLECT: collect, UPDATE: 2.0, PUSH: 1.0})


POINTS = [point(16, 64, 60, 5.0), point(8, 64, 62, 3.0), point(16, 16, 15, 1.5)]
SIMULATED = [
    SimulatedPoint("engines", 32, 2, 128, 12.0, 10.0, 2.5),
    SimulatedPoint("engines", 8, 1, 32, 8.0, 7.5, 9.0),
    SimulatedPoint("judges", 64, 1, 256, 18.0, 17.0, 2.0),
]


@pytest.mark.timeout(300)
def test_a_point_of_a_whole_system(tiny_model: Path, tiny_tree: dict[str, Any]) -> None:
    config = validate(tiny_tree | {"monitor": {"every": 0}}, "test")
    found = measure_point(config, tiny_model, 4, 8, 1)
    assert (found.samples, found.max_new_tokens) == (4, 8)
    assert 1 <= found.tokens <= 8
    assert set(found.seconds) == {COLLECT, UPDATE, PUSH}
    assert all(0 < seconds < 60 for seconds in found.seconds.values())


def test_each_curve_has_the_points_that_share_the_other_size() -> None:
    over_samples, over_tokens = curves(POINTS, 16, 64)
    assert over_samples.lines["sample and score"] == [(8, 3.0), (16, 5.0)]
    assert over_samples.lines["push and verify"] == [(8, 1.0), (16, 1.0)]
    assert over_tokens.lines["sample and score"] == [(15, 1.5), (60, 5.0)]


def test_the_page_draws_what_it_is_given(tmp_path: Path) -> None:
    given = [*curves(POINTS, 16, 64), Curve("Engines", "simulated", {"step": [(8, 9), (512, 10)]})]
    write_page(tmp_path / "page.html", MACHINE, POINTS, given)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 3
    assert page.count('class="c1 mean"') == 3
    assert page.count('class="c3 mean"') == 2
    row = (
        r"<td>8</td><td>64</td><td>62</td><td>3\.00</td><td>2\.00</td><td>1\.00</td><td>1\.33</td>"
    )
    assert re.search(row, page)


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
    assert simulated_curves([]) == curves([], 16, 64) == []


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
    (tmp_path / "16x64.json").write_text(json.dumps(asdict(POINTS[0])))
    monkeypatch.setattr("sys.argv", [*arguments, "samples", "--samples", "16"])
    assert job.main() == 0
    page = (tmp_path / "growth.html").read_text()
    assert page.count("<svg") == 6
    assert "real steps" in page
    assert set(SHAPES) < set(job.CURVES)
