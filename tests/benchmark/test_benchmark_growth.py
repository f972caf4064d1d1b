"""What grows with what: a real point of a small system, and curves and page by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from repo_ray.benchmark.growth import PHASES, Curve, Point, curves, measure_point, write_page
from repo_ray.config.load import validate

COLLECT, UPDATE, PUSH = PHASES
MACHINE = {"hardware": "h", "torch": "1", "transformers": "2"}


def point(samples: int, max_new_tokens: int, tokens: float, collect: float) -> Point:
    return Point(samples, max_new_tokens, tokens, {COLLECT: collect, UPDATE: 2.0, PUSH: 1.0})


POINTS = [point(16, 64, 60, 5.0), point(8, 64, 62, 3.0), point(16, 16, 15, 1.5)]


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
