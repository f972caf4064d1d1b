"""Ratios over dialogues with bootstrap intervals, for one column or two columns in pairs.

A dialogue, not a turn, is the unit of resampling: turns of one dialogue are not independent, and
neither are the replies of several training seeds to the same dialogue. Every measure is a ratio
of two sums over dialogues, so that one vectorised bootstrap serves all (Efron & Tibshirani 1993,
percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Row = Mapping[str, Any]
Unit = Literal["rating", "share", "score", "words", "tokens", "reward", "count"]
#: Sum and count of one dialogue; a count of 0 leaves the dialogue out of the measure.
Part = tuple[float, float]
#: Set and dialogue id.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Measure:
    """A value with its 95% interval over `n` dialogues. None bounds: no interval is defined."""

    name: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class MeasureSpec:
    """What a measure is called, over which set it runs, and which direction is better."""

    name: str
    label: str
    definition: str
    unit: Unit
    better: Literal["higher", "lower", "neither"]
    set: str | None
    part: Callable[[Sequence[Row]], Part]


def turn_mean(value: Callable[[Row], float | None]) -> Callable[[Sequence[Row]], Part]:
    """Mean over rows; rows without a value (None) do not count."""

    def part(rows: Sequence[Row]) -> Part:
        values = [v for row in rows if (v := value(row)) is not None]
        return float(sum(values)), float(len(values))

    return part


def per_dialogue(value: Callable[[Sequence[Row]], float | None]) -> Callable[[Sequence[Row]], Part]:
    """One value per dialogue, each counting once; None leaves the dialogue out."""

    def part(rows: Sequence[Row]) -> Part:
        result = value(rows)
        return (0.0, 0.0) if result is None else (float(result), 1.0)

    return part


def dialogue_parts(seeds: Sequence[Sequence[Row]], spec: MeasureSpec) -> dict[Key, Part]:
    """Part of each dialogue, its seeds added up; dialogues without data are left out.

    `seeds` are the rows of one method by training seed (one entry for a single column). The parts
    of a dialogue are made per seed, so that `at least one excellent reply` is asked of each seed
    alone, and then added, so that a draw takes a dialogue with all its seeds.
    """
    found: dict[Key, Part] = {}
    for rows in seeds:
        dialogues: dict[Key, list[Row]] = {}
        for row in rows:
            if spec.set is None or row["set"] == spec.set:
                dialogues.setdefault((row["set"], row["dialogue_id"]), []).append(row)
        for key, own in dialogues.items():
            total, count = spec.part(own)
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + total, before[1] + count)
    return {key: part for key, part in found.items() if part[1] > 0}


def measure(
    seeds: Sequence[Sequence[Row]], spec: MeasureSpec, resamples: int, seed: int
) -> Measure | None:
    """The measure of one method with its interval; None when no dialogue has data.

    Interval: 2.5 and 97.5 percentiles over `resamples` draws of dialogues. Where every dialogue of
    a share is at 0 or at 1, the bootstrap has no width, and the exact one-sided binomial bound
    over dialogues takes its place (Clopper & Pearson 1934: 1 - 0.025^(1/n)).
    """
    parts = np.array(list(dialogue_parts(seeds, spec).values()), dtype=float).reshape(-1, 2)
    if not len(parts):
        return None
    total, count = parts.sum(axis=0)
    width = _edge(len(parts))
    if spec.unit == "share" and total in (0.0, count):
        low, high = (0.0, width) if total == 0 else (1 - width, 1.0)
    else:
        draws = _draws(len(parts), resamples, seed)
        low, high = np.percentile(_ratios(parts, draws), [2.5, 97.5])
    return Measure(spec.name, float(total / count), float(low), float(high), len(parts))


def difference(
    ours: Sequence[Sequence[Row]],
    theirs: Sequence[Sequence[Row]],
    spec: MeasureSpec,
    resamples: int,
    seed: int,
) -> Measure | None:
    """Our measure minus theirs over the dialogues that both have; None when they share none.

    Paired: a draw takes the same dialogues for both. Where every dialogue of a share has the same
    difference of -1, 0 or 1, the exact binomial bound replaces an interval without width.
    """
    a, b = dialogue_parts(ours, spec), dialogue_parts(theirs, spec)
    shared = [key for key in a if key in b]
    if not shared:
        return None
    mine = np.array([a[key] for key in shared], dtype=float)
    other = np.array([b[key] for key in shared], dtype=float)
    value = mine[:, 0].sum() / mine[:, 1].sum() - other[:, 0].sum() / other[:, 1].sum()
    each = mine[:, 0] / mine[:, 1] - other[:, 0] / other[:, 1]
    if spec.unit == "share" and np.ptp(each) == 0 and each[0] in (-1.0, 0.0, 1.0):
        width = _edge(len(shared))
        low, high = max(-1.0, value - width), min(1.0, value + width)
    else:
        draws = _draws(len(shared), resamples, seed)
        low, high = np.percentile(_ratios(mine, draws) - _ratios(other, draws), [2.5, 97.5])
    return Measure(spec.name, float(value), float(low), float(high), len(shared))


def _edge(n: int) -> float:
    return float(1 - 0.025 ** (1 / n))


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """Indices [resamples, count] of dialogues drawn with replacement."""
    return np.random.default_rng(seed).integers(0, count, size=(resamples, count))


def _ratios(parts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """`parts` [dialogues, 2] -> ratio of sums per draw [resamples]."""
    sums = parts[draws].sum(axis=1)
    return sums[:, 0] / sums[:, 1]
