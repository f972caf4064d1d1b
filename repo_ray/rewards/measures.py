"""How well a scorer agrees with labels: ranking, calibration. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rank_auc(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties half.

    Computed from mid-ranks (Mann-Whitney U). None where one of the two classes is absent.
    """
    positive = np.asarray(labels, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mid_rank = last_rank - (counts - 1) / 2
    u = mid_rank[group][positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def calibration_error(
    labels: Sequence[bool], probabilities: Sequence[float], bins: int = 10
) -> float:
    """Expected calibration error: |mean probability - share of true labels|, averaged over
    equal-width bins of [0, 1] by the number of values in each (Guo et al. 2017, arXiv 1706.04599).
    """
    truth = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    if not len(p):
        raise ValueError("calibration_error: no values")
    index = np.minimum((p * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        inside = index == b
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - truth[inside].mean())
    return float(total)
