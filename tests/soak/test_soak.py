"""Long runs hold what they hold: 2,000 steps with a fake engine, 1,000 with everything real, and
engines that are much faster than the judges.

`make soak` runs them and leaves their pages in runs/.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_engine_run import JUDGE_QUEUE
from watch import Watched, growth, page, watch

from repo_ray.config.load import merge
from repo_ray.evaluation.report_pools import pool_rows
from repo_ray.training.metrics import read_metrics

HERE = Path(__file__).parent
JOB = HERE.parents[1] / "jobs" / "train_repo.py"

#: Ray's head remembers the last 100,000 calls for the dashboard, about 2 KiB each. With fewer it
#: reaches that bound within the first quarter of these runs.
CALLS_KEPT = {"RAY_task_events_max_num_task_in_gcs": "2000"}


def soak(title: str, run: Path, command: list[str], steps: int) -> None:
    output = run.parent / "output"
    shared = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
            | CALLS_KEPT
            | {"PYTHONPATH": shared},
        )
        try:
            found = watch(process, run, every_s=2.0)
        finally:
            process.kill()
    assert process.returncode == 0, output.read_text()
    faults = growth(found)
    folder = Path(os.environ.get("REPO_RAY_SOAK_REPORTS", run.parent))
    (folder / f"soak-{run.name}.html").write_text(page(title, found, faults), encoding="utf-8")
    assert not faults
    assert read_metrics(run)[-1]["step"] == steps


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_steps_with_a_fake_engine(tmp_path: Path) -> None:
    command = [str(HERE / "fake_engine_run.py"), str(tmp_path / "fake"), "2000"]
    soak("2,000 steps with a fake engine", tmp_path / "fake", command, 2000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_engines_ten_times_faster_than_judges_wait(tmp_path: Path) -> None:
    """Six judgements a second at most; the engine alone gives more than ten times as many."""
    command = [str(HERE / "fake_engine_run.py"), str(tmp_path / "overload"), "120", "0.5"]
    soak("120 steps, judges overloaded", tmp_path / "overload", command, 120)
    rows = read_metrics(tmp_path / "overload")
    judge, engine = rows[-1]["pools"]["judge"], rows[-1]["pools"]["rollout"]
    print(pool_rows(rows))
    assert judge["busy_s"] > 0.9 * judge["able_s"]
    assert engine["busy_s"] < 0.1 * engine["able_s"]
    assert 0 < judge["longest_queue"] <= JUDGE_QUEUE
    ledger = rows[-1]["ledger"]
    assert ledger["issued"] == ledger["consumed"] == 120 * 16


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(7200)
def test_a_thousand_steps_with_everything_real(tiny_tree: dict[str, Any], tmp_path: Path) -> None:
    """The allocator keeps what is freed: the engine's memory rises for 250 steps, then no more."""
    run = {"name": "real", "dir": str(tmp_path), "steps": 1000, "epochs": 1000}
    changes = {"run": {**run, "checkpoint_every": 50}, "monitor": {"every": 100}}
    config = tmp_path / "soak.yaml"
    config.write_text(yaml.safe_dump(merge(tiny_tree, changes)))
    command = [str(JOB), "--config", str(config)]
    soak("1,000 steps, everything real, a tiny model", tmp_path / "real", command, 1000)


def curves(name: str, values: list[float]) -> Watched:
    found = Watched(step_s=[(float(n), 1.0) for n in range(1, 101)])
    found.memory_mib[name] = [(float(t), v) for t, v in enumerate(values)]
    return found


def test_growth_is_told_from_a_start_that_levels_out() -> None:
    levels_out = [min(500.0, 100.0 + 20.0 * t) for t in range(100)]
    assert growth(curves("driver (1)", levels_out)) == []
    (fault,) = growth(curves("driver (1)", [500.0 + 2.0 * t for t in range(100)]))
    assert fault == "driver (1): 574 MiB in the second quarter, 674 in the last"


def test_steps_that_slow_down_are_told() -> None:
    found = curves("driver (1)", [500.0] * 100)
    found.step_s = [(float(n), 0.1 + n / 100) for n in range(1, 101)]
    (fault,) = growth(found)
    assert fault.startswith("steps: ")
