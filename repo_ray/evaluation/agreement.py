"""How far evaluators agree beyond chance: gold, LLM and people, on the same replies."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Weights = Literal["none", "quadratic"]
RATINGS = (1, 2, 3, 4, 5)
BINARY = (0, 1)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two evaluators on the `n` items that both judged, of `groups` dialogues.

    `kappa` is None when it is undefined: no common item, or both give all items one and the same
    class, where chance agrees as well. `low` and `high`: 95% bootstrap interval over dialogues,
    None where a draw in ten or more has no kappa. `observed`: share of equal answers.
    """

    first: str
    second: str
    kappa: float | None
    low: float | None
    high: float | None
    observed: float | None
    n: int
    groups: int


def cohen_kappa(
    first: Sequence[int],
    second: Sequence[int],
    classes: Sequence[int],
    weights: Weights = "none",
) -> float | None:
    """Agreement of two raters beyond chance, 1 - sum(w o) / sum(w e); None where undefined.

    `o` is the table of observed shares, `e` the product of its margins, `w` the disagreement: 1
    off the diagonal (Cohen 1960, Educ. Psychol. Meas. 20), or the squared distance of the ranks in
    `classes` (Cohen 1968, Psychol. Bull. 70). Raises ValueError on unequal lengths or a value
    outside `classes`.
    """
    table = _tables(first, second, np.zeros(len(first), dtype=int), classes).sum(axis=0)
    kappa = _kappas(table[None], weights)[0]
    return None if np.isnan(kappa) else float(kappa)


def agreement(
    first: Mapping[Hashable, int | None],
    second: Mapping[Hashable, int | None],
    groups: Mapping[Hashable, Hashable],
    names: tuple[str, str],
    classes: Sequence[int] = RATINGS,
    weights: Weights = "quadratic",
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Kappa of two evaluators with its interval.

    `first` and `second` map an item (a reply) to its rating, or to a binary answer as 0 and 1;
    items that one of them lacks or could not judge (None) do not count. `groups` maps an item to
    its dialogue, which is drawn whole.
    """
    both = [
        (k, x, y) for k, x in first.items() if x is not None and (y := second.get(k)) is not None
    ]
    if not both:
        return Agreement(*names, None, None, None, None, 0, 0)
    items, a, b = (list(part) for part in zip(*both, strict=True))
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups[k] for k in items))}
    tables = _tables(a, b, np.array([numbers[groups[k]] for k in items]), classes)
    kappa = _kappas(tables.sum(axis=0)[None], weights)[0]
    count = len(numbers)
    draws = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    drawn = _kappas(np.stack([tables[d].sum(axis=0) for d in draws]), weights)
    usual = np.isnan(drawn).mean() < 0.1
    low, high = np.percentile(drawn[~np.isnan(drawn)], [2.5, 97.5]) if usual else (None, None)
    return Agreement(
        *names,
        None if np.isnan(kappa) else float(kappa),
        None if low is None else float(low),
        None if high is None else float(high),
        float(np.mean([x == y for x, y in zip(a, b, strict=True)])),
        len(items),
        count,
    )


def pairwise_agreement(
    evaluators: Mapping[str, Mapping[Hashable, int | None]],
    groups: Mapping[Hashable, Hashable],
    classes: Sequence[int] = RATINGS,
    weights: Weights = "quadratic",
    resamples: int = 1000,
    seed: int = 0,
) -> list[Agreement]:
    """Every pair of evaluators (gold, the LLM, each person), in their order."""
    return [
        agreement(evaluators[a], evaluators[b], groups, (a, b), classes, weights, resamples, seed)
        for a, b in itertools.combinations(evaluators, 2)
    ]


def _tables(
    first: Sequence[int], second: Sequence[int], group: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
    """Counts [groups, classes, classes] of answers by the two."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} answers of one evaluator, {len(second)} of the other")
    ranks = {value: i for i, value in enumerate(classes)}
    for value in (*first, *second):
        if value not in ranks:
            raise ValueError(f"answer {value!r}: expected one of {tuple(classes)}")
    tables = np.zeros((int(group.max(initial=0)) + 1, len(ranks), len(ranks)))
    for g, x, y in zip(group, first, second, strict=True):
        tables[g, ranks[x], ranks[y]] += 1
    return tables


def _kappas(tables: np.ndarray, weights: Weights) -> np.ndarray:
    """Tables [B, K, K] -> kappas [B]; nan where there is no item or chance cannot disagree."""
    size = tables.shape[-1]
    rank = np.arange(size)
    apart = rank[:, None] - rank[None, :]
    weight = (apart**2 if weights == "quadratic" else apart != 0).astype(float)
    total = tables.sum(axis=(1, 2))
    by_chance = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :]
    observed = (weight * tables).sum(axis=(1, 2)) * total
    expected = (weight * by_chance).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)
