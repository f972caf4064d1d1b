"""The environment that actors get has the effect that it is for."""

import os
import subprocess
import sys

from repo_ray.actors.environment import thread_environment


def test_a_process_with_it_runs_on_jemalloc_which_knows_every_setting() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "print('libjemalloc' in open('/proc/self/maps').read())"],
        env=os.environ | thread_environment(1),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "True"
    assert done.stderr == ""  # where jemalloc names what it does not know


def test_waiting_threads_sleep_unless_the_actor_computes_alone() -> None:
    assert thread_environment(2)["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in thread_environment(2, alone=True)
    assert thread_environment(2)["OMP_NUM_THREADS"] == "2"
