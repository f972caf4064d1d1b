"""Times two things side by side, in turns, and says how one compares with the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

#: Does the work once and returns how much it was (tokens, samples, ...); of an untimed bar, the
#: measure itself (a share, MiB, seconds that something said it took).
Work = Callable[[], float]


@dataclass(frozen=True)
class Bar:
    """What is measured: `ours` does the work of `part`, `peer` that of `against`.

    `reach` is the least ratio of `ours` to `peer`, both in `unit` per second; with `at_most`, the
    largest; None where nothing was promised. Untimed (`timed` is false), both are in `unit`.
    """

    part: str
    against: str
    unit: str
    reach: float | None
    at_most: bool = False
    timed: bool = True


@dataclass(frozen=True)
class Result:
    """What was measured in every repeat, in the order in which they alternated."""

    bar: Bar
    ours: Sequence[float]
    peer: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Of each pair of neighbours: what slowed the machine down slowed both."""
        return [a / b for a, b in zip(self.ours, self.peer, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool:
        if self.bar.reach is None:
            return True
        return self.ratio <= self.bar.reach if self.bar.at_most else self.ratio >= self.bar.reach

    def json(self) -> dict[str, Any]:
        return {
            **asdict(self.bar),
            "ours": summary(self.ours),
            "peer": summary(self.peer),
            "ratio": summary(self.ratios),
            "reached": self.reached,
        }


#: Sets both sides up, gives (ours, peer), and clears up.
Sides = AbstractContextManager[tuple[Work, Work]]


def compare(bar: Bar, sides: Sides, repeats: int) -> Result:
    """Each side once unmeasured, then `repeats` times in turns; who begins changes every time."""
    ours: list[float] = []
    peer: list[float] = []
    with sides as (do_ours, do_peer):
        do_ours()
        do_peer()
        for repeat in range(repeats):
            turns = [(do_ours, ours), (do_peer, peer)]
            for work, into in turns if repeat % 2 == 0 else reversed(turns):
                began = time.perf_counter()
                amount = work()
                into.append(amount / (time.perf_counter() - began) if bar.timed else amount)
    return Result(bar, ours, peer)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes, and all of them."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "values": list(values),
    }
