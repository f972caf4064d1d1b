"""The memory of a run is what it uses, whatever an earlier one still gives back."""

import itertools
import threading

import pytest

from repo_ray.pipeline.summary import GIB, MemoryWatch


def test_the_peak_is_counted_from_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = threading.Event()
    used = itertools.chain([5, 4, 2, 6, 3], iter(lambda: seen.set() or 3, None))
    monkeypatch.setattr(MemoryWatch, "_used", staticmethod(lambda: next(used) * int(GIB)))
    with MemoryWatch(every_s=0.001) as memory:
        assert seen.wait(10)
    assert memory.peak_gib == 4
