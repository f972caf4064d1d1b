"""Runs beside their predictions: errors by hand, every shape's config, and a small real run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from repo_ray.benchmark.planned import UNCOMPILED, Comparison, compare, measure, runs, summary
from repo_ray.config.load import load_config, validate
from repo_ray.planning import Cluster
from repo_ray.planning.measured import Measured
from repo_ray.planning.speeds import CPU
from repo_ray.planning.work import Load

BENCHMARK = Path(__file__).parents[2] / "jobs" / "configs" / "benchmark.yaml"


def run(step_s: float, tree: dict[str, Any]) -> Measured:
    return Measured(validate(tree, "test"), Load(9, 8, 8), 2, 4.0, 3.0, 1.0, step_s)


def test_the_summary_leaves_out_base_runs_and_says_how_far_they_went(
    tiny_tree: dict[str, Any],
) -> None:
    base = [Comparison("base", run(seconds, tiny_tree), {}) for seconds in (8.0, 12.0, 9.0)]
    compared = [
        *base,
        Comparison("larger", run(10.0, tiny_tree), {"step": 12.0}),
        Comparison("smaller", run(4.0, tiny_tree), {"step": 3.0}),
        Comparison("other", run(4.0, tiny_tree), {"step": 4.4}),
    ]
    said = summary(compared)
    assert "20% in the median of 3 predicted steps, 25% at worst" in said
    assert "made 3 times, took 8.0 to 12.0 s a step" in said
    assert "Nothing was predicted" in summary(base)


def test_every_run_is_a_config_and_shapes_lie_between_synchronous_base_runs() -> None:
    configs = {
        name: load_config(BENCHMARK, [*UNCOMPILED, *changes]) for name, changes in runs().items()
    }
    names = list(configs)
    assert names == sorted(names)
    bases = [name for name in names if name.endswith("-base")]
    assert (names[0], names[-1]) == (bases[0], bases[-1])
    assert configs[names[0]].run.staleness == 0
    for name, config in configs.items():
        assert (config == configs[names[0]]) == (name in bases)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_is_predicted_from_its_neighbours_by_the_mean_of_both(
    tmp_path: Path, tiny_model: Path, tiny_tree: dict[str, Any]
) -> None:
    config = validate(tiny_tree | {"monitor": {"every": 0}}, "test")
    names = ["00-base", "01-same", "02-base"]
    measure(config, tiny_model, tmp_path / names[0], 2)
    for name in names[1:]:
        shutil.copytree(tmp_path / names[0], tmp_path / name)
    slower = tmp_path / names[2] / "metrics.jsonl"
    rows = [json.loads(line) for line in slower.read_text().splitlines()]
    rows = [{k: 2 * v if k.startswith("time/") else v for k, v in row.items()} for row in rows]
    slower.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cluster = Cluster(nodes=1, cpus=2, memory_gib=24)
    before, same, after = compare(tmp_path, names, cluster, CPU)
    assert before.predicted == after.predicted == {}
    assert after.run.step_s == pytest.approx(2 * before.run.step_s)
    for phase in ("collect", "update", "push"):
        measured = getattr(same.run, f"{phase}_s")
        assert 0 < measured < 60
        assert same.predicted[phase] == pytest.approx(1.5 * measured)
    assert same.predicted["step"] < 1.5 * same.run.step_s / 0.9  # phases are parts of the step
    (tmp_path / names[2] / "config.yaml").unlink()
    assert [c.shape for c in compare(tmp_path, names, cluster, CPU)] == ["base"]
