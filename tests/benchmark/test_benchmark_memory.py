"""Memory of processes."""

from __future__ import annotations

import subprocess
import sys

import psutil

from repo_ray.benchmark.memory import _ours, _peak_mib, _share_mib
from repo_ray.benchmark.steps import TRL_SCRIPT

#: Holds 200 MiB for a moment, then says that it has let go of them.
HELD = "x = bytearray(b'x') * (200 * 2**20); del x; print(flush=True); input()"


def test_a_peak_stays_when_the_memory_is_given_back() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = psutil.Process(child.pid)
        peak, now = _peak_mib(process), _share_mib(process)
        child.kill()
    assert 200 < peak < 260
    assert now < 60


def test_trl_is_not_ours() -> None:
    wait = "import sys; sys.stdin.read()"
    commands = [["ours.py"], [str(TRL_SCRIPT), "model"]]
    children = [
        subprocess.Popen([sys.executable, "-c", wait, *c], stdin=subprocess.PIPE) for c in commands
    ]
    found = {process.pid for process in _ours()}
    for child in children:
        child.kill()
        child.communicate()
    ours, trl = (child.pid for child in children)
    assert {psutil.Process().pid, ours} <= found
    assert trl not in found
