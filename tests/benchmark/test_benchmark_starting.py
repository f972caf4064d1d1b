"""The first sample is noticed when the job tells of it; a job that ends without one is an error."""

from __future__ import annotations

import sys

import pytest

from repo_ray.benchmark.starting import _first_sample

#: Tells of a sample after a second, and takes its time to end when asked to.
JOB = """
import signal, sys, time
def stop(*_):
    print("x" * 100_000)  # more than a terminal holds unread
    sys.exit()
signal.signal(signal.SIGTERM, stop)
assert sys.stdout.isatty()
time.sleep(1)
print("  sample 1 of 16", flush=True)
time.sleep(60)
"""


def test_seconds_to_the_first_sample() -> None:
    assert 1.0 < _first_sample([sys.executable, "-c", JOB]) < 10.0


def test_a_job_that_ends_without_a_sample() -> None:
    with pytest.raises(RuntimeError, match="no sample; the job said: bad data"):
        _first_sample([sys.executable, "-c", "print('bad data')"])
