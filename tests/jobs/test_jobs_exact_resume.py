"""A run whose driver is killed in the middle of a step continues bit for bit.

One engine, one sample at a time and one thread each: what is computed together with what, and so
every rounding, is then the same in both runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from repo_ray.config.load import merge
from repo_ray.training.checkpoints import latest_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(900)]

JOB = Path(__file__).parents[2] / "jobs" / "train_repo.py"
STEPS = 4
ALONE = {"pool": {"max_in_flight": 1}}
CHANGES = {
    "run": {"steps": STEPS},
    "rollout": ALONE,
    "reward_model": ALONE,
    "judge": ALONE,
    "evaluation": {"enabled": False},
    "monitor": {"every": 0},
}


def start(config: Path, runs: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(JOB), "--config", str(config), f"run.dir={runs}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def test_a_killed_run_that_is_resumed_is_the_run_that_was_not(
    tiny_tree: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "exact.yaml"
    config.write_text(yaml.safe_dump(merge(tiny_tree, CHANGES)))
    whole, cut = tmp_path / "whole" / "tiny", tmp_path / "cut" / "tiny"
    finish(start(config, whole.parent))

    process = start(config, cut.parent)
    try:
        while not (cut / "checkpoints" / "step-000002").is_dir():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    found = latest_checkpoint(cut / "checkpoints")
    assert found is not None
    assert 2 <= found.step < STEPS
    finish(start(config, cut.parent, "--resume"))

    for path in sorted((whole / "trajectories").glob("*.parquet")):
        expected, actual = pq.read_table(path), pq.read_table(cut / "trajectories" / path.name)
        for name in expected.column_names:
            if name != "scores":  # has the seconds that each took
                assert actual[name].equals(expected[name]), f"{path.name}: {name}"
    last = f"checkpoints/step-{STEPS:06d}"
    names = {path.name for path in (whole / last).rglob("*.safetensors")}
    assert {"policy.safetensors", "value.safetensors", "optimizer-0.safetensors"} <= names
    for path in (whole / last).rglob("*.safetensors"):
        expected_tensors = load_file(path)
        actual_tensors = load_file(cut / path.relative_to(whole))
        assert actual_tensors.keys() == expected_tensors.keys()
        for key, tensor in expected_tensors.items():
            assert torch.equal(actual_tensors[key], tensor), f"{path.name}: {key}"
