"""Runs beside their predictions: a table by hand, every shape's config, and a small real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_ray.benchmark.planned import SHAPES, UNCOMPILED, Comparison, compare, markdown, measure
from repo_ray.config.load import load_config, validate
from repo_ray.planning import Cluster
from repo_ray.planning.speeds import CPU

BENCHMARK = Path(__file__).parents[2] / "jobs" / "configs" / "benchmark.yaml"


def test_the_table_says_how_far_predictions_were_off_and_leaves_out_the_fitted_run() -> None:
    phases = {"collect": (4.0, 4.0), "update": (3.0, 3.0), "push": (1.0, 1.0), "step": (8.5, 8.0)}
    compared = [
        Comparison("base", phases),
        Comparison("larger", {"step": (10.0, 12.0)}),
        Comparison("smaller", {"step": (4.0, 3.0)}),
        Comparison("other", {"step": (4.0, 4.4)}),
    ]
    table = markdown({"hardware": "2 cores"}, compared)
    assert "| base | 4.00, 4.00 | 3.00, 3.00 | 1.00, 1.00 | 8.50, 8.00 | fitted |" in table
    assert "| larger |  |  |  | 10.00, 12.00 | +20% |" in table
    assert "Off by 20% in the median of 3 predicted steps, 25% at worst." in table
    assert "Nothing was predicted" in markdown({"hardware": "2 cores"}, compared[:1])


def test_every_shape_is_a_config_and_the_fitted_one_is_synchronous() -> None:
    configs = {
        name: load_config(BENCHMARK, [*UNCOMPILED, *changes]) for name, changes in SHAPES.items()
    }
    base, *others = configs.values()
    assert base.run.staleness == 0
    assert all(config != base for config in others)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_becomes_a_folder_that_can_be_compared(
    tmp_path: Path, tiny_model: Path, tiny_tree: dict[str, Any]
) -> None:
    config = validate(tiny_tree | {"monitor": {"every": 0}}, "test")
    measure(config, tiny_model, tmp_path / "one", 2)
    cluster = Cluster(nodes=1, cpus=2, memory_gib=24)
    fitted, (found,) = compare({"one": tmp_path / "one"}, cluster, CPU)
    assert fitted.learner_flops != CPU.learner_flops
    for phase in ("collect", "update", "push"):
        measured, predicted = found.errors[phase]
        assert 0 < measured < 60
        assert predicted == pytest.approx(measured)
    measured, predicted = found.errors["step"]
    assert measured > 0.9 * predicted  # the phases are parts of the step
