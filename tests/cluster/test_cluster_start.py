"""cluster/start.sh, with a stand-in for `ray` that writes down how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "start.sh"
STAND_IN = """#!/usr/bin/env bash
echo "$RAY_AUTH_MODE $RAY_JOB_STOP_WAIT_TIME_S $*" >>"$LOG"
"""


@pytest.fixture
def start(tmp_path):
    """Runs the script in a checkout of its own; returns exit status and calls of `ray`."""
    (tmp_path / "cluster").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "cluster")
    program = tmp_path / ".venv" / "bin" / "ray"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    log = tmp_path / "calls"

    def run(*arguments: str, **variables: str) -> tuple[int, list[str]]:
        environment = {"PATH": os.environ["PATH"], "LOG": str(log), **variables}
        status = subprocess.run(
            ["bash", script, *arguments], env=environment, capture_output=True, timeout=30
        ).returncode
        return status, log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    return run


def test_head_makes_a_token_and_listens_on_this_machine_alone(start):
    status, calls = start("head", "--num-cpus=0", "--labels=repo-ray/role=driver")
    assert status == 0
    assert calls == [
        "token 120 get-auth-token --generate",
        "token 120 start --head --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265"
        " --num-cpus=0 --labels=repo-ray/role=driver",
    ]


def test_worker_joins_with_its_role(start):
    status, calls = start("worker", "10.0.0.1:6379", "--labels=repo-ray/role=judge")
    assert status == 0
    assert calls == ["token 120 start --address=10.0.0.1:6379 --labels=repo-ray/role=judge"]


def test_the_wait_of_a_stopped_job_can_be_longer(start):
    _, calls = start("worker", "10.0.0.1:6379", RAY_JOB_STOP_WAIT_TIME_S="600")
    assert calls == ["token 600 start --address=10.0.0.1:6379"]


@pytest.mark.parametrize("arguments", [(), ("worker",), ("tail",)])
def test_anything_else_starts_nothing(start, arguments):
    status, calls = start(*arguments)
    assert status == 2
    assert calls == []
