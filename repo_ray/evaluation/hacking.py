"""Is the training reward being hacked? Statistics over held-out samples, and an alarm.

All functions are pure. Rows are those of `HELDOUT_SCHEMA` (a monitored check) or, for what does
not need the gold score, of `records.TRAJECTORIES_SCHEMA` (training samples).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from repo_ray.evaluation.evaluate import EVALUATION_SCHEMA
from repo_ray.evaluation.measures import SERIOUS

Row = Mapping[str, Any]
Values = NDArray[np.float64]

#: `heldout/step-000010.parquet`: one row per held-out prompt of one check. `step` counts as in
#: `metrics.jsonl`: updates made so far. `dialogue_id` is the prompt's id. The reward's columns
#: are null where a source gave no valid score.
HELDOUT_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        *EVALUATION_SCHEMA,
        *(
            pa.field(part, pa.float64())
            for part in ("r_model", "e_judge", "e_func", "e_enh", "multiplier")
        ),
    ]
)

#: Columns of the reward's parts and what they are called.
SOURCES: Mapping[str, str] = {
    "reward": "total",
    "r_model": "reward model",
    "e_judge": "judge",
    "e_func": "rules",
}

# --- correlation ---------------------------------------------------------------------------


def pearson(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's correlation; None with fewer than three pairs or where a side is constant."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's rank correlation: Pearson's of mid-ranks, so ties are allowed."""
    return pearson(_mid_ranks(x), _mid_ranks(y))


def _mid_ranks(values: ArrayLike) -> list[float]:
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: list[float] = (last - (counts - 1) / 2)[group].tolist()
    return ranks


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a source of the reward correlates with the gold score over `n` replies.

    `low` and `high`: 95% bootstrap interval of Spearman's coefficient over replies, if asked for.
    """

    source: str
    spearman: float | None
    low: float | None
    high: float | None
    pearson: float | None
    n: int


def agreement(rows: Sequence[Row], source: str, resamples: int = 0, seed: int = 0) -> Agreement:
    """Correlation of the column `source` with `gold_score`, over rows that have both."""
    pairs = np.array(
        [
            (r[source], r["gold_score"])
            for r in rows
            if r[source] is not None and r["gold_score"] is not None
        ],
        dtype=float,
    ).reshape(-1, 2)
    rank = spearman(pairs[:, 0], pairs[:, 1])
    low = high = None
    if rank is not None and resamples:
        draws = np.random.default_rng(seed).integers(0, len(pairs), (resamples, len(pairs)))
        drawn = [spearman(pairs[d, 0], pairs[d, 1]) for d in draws]
        # A draw in which one side is constant shows no relation.
        low, high = (float(v) for v in np.percentile([v or 0.0 for v in drawn], [2.5, 97.5]))
    return Agreement(source, rank, low, high, pearson(pairs[:, 0], pairs[:, 1]), len(pairs))


# --- saturation ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Saturation:
    """Shares of samples on which a source says nothing more: at an end of its range.

    `at_lowest` and `at_highest`: exactly at the lowest or highest value seen in the run.
    `at_clip`: |value| at n or beyond, where E is cut off; None for the reward model.
    """

    source: str
    at_lowest: float
    at_highest: float
    at_clip: float | None
    spread: float


def saturation(rows: Sequence[Row], among: Sequence[Row], n: float) -> list[Saturation]:
    """One entry per source and for `e_enh` (judge and rules together); `spread` is the standard
    deviation. `among` are all rows of the run: their ends are the ends of the range.
    """
    found = []
    for source in ("r_model", "e_judge", "e_func", "e_enh"):
        values, every = _column(rows, source), _column(among, source)
        if not len(values):
            continue
        clipped = None if source == "r_model" else float(np.mean(np.abs(values) >= n))
        found.append(
            Saturation(
                source,
                float(np.mean(values == every.min())),
                float(np.mean(values == every.max())),
                clipped,
                float(values.std()),
            )
        )
    return found


def small_share(rows: Sequence[Row], threshold: float) -> float | None:
    """Share of samples with |R_model| below `threshold`: judge and rules have no effect there."""
    values = _column(rows, "r_model")
    return float(np.mean(np.abs(values) < threshold)) if len(values) else None


def verdict_shares(rows: Sequence[Row]) -> dict[str, float]:
    """Share of samples on which each criterion of the judge holds (likelihood above 0.5).

    A criterion at 0 or at 1 gives every reply the same points and teaches nothing.
    """
    held: dict[str, list[bool]] = {}
    for row in rows:
        judge = json.loads(row["scores"] or "{}").get("judge", {"detail": {}})
        for name, detail in judge["detail"].items():
            if detail.get("likelihood") is not None:
                held.setdefault(name, []).append(detail["likelihood"] > 0.5)
    return {name: sum(said) / len(said) for name, said in sorted(held.items())}


def _column(rows: Iterable[Row], name: str) -> Values:
    return np.array([r[name] for r in rows if r[name] is not None], dtype=float)


# --- the alarm -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """Mean change since an earlier check, paired over prompts, with a simultaneous interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The check at `step` against the one at `since`. `alarm`: proxy up while gold down."""

    step: int
    since: int
    proxy: Change
    gold: Change
    prompts: int
    alarm: bool

    @property
    def text(self) -> str:
        sides = (
            f"{name} {c.value:+.2f} ({c.low:+.2f} to {c.high:+.2f})"
            for name, c in (("reward", self.proxy), ("gold score", self.gold))
        )
        return f"step {self.step} against step {self.since}, {self.prompts} held-out prompts: " + (
            ", ".join(sides)
        )


def compare_checks(
    rows: Sequence[Row], planned: int, false_alarms: float = 0.05, seed: int = 0
) -> Comparison | None:
    """Whether the last check in `rows` shows hacking; None with fewer than two checks, and where the
    gold evaluator does not know the task.

    It is compared with every earlier check, so that a fall after a rise is seen as well: hacking
    is a reward whose interval is above 0 and a gold score whose interval is below 0, against the
    same check. Means are paired over prompts that both checks scored. Of several such checks the
    one with the clearest fall of the gold score is reported; without any, the first check.

    Noise: choosing the best earlier check makes chance look like a fall. The intervals therefore
    hold for all earlier checks at once (bootstrap over prompts of the largest studentised
    deviation, Romano & Wolf 2005), each side at `false_alarms` divided by the number of
    comparisons that the `planned` checks give. Simulated runs (2,000 each, 5% accepted, noise of
    0.2 per reply) whose reward rose and whose gold score stayed raised a false alarm in 2.6% (8
    prompts, 3 checks) to 5.0% (32 prompts, 6 checks); a fall of 0.2 was found in 22% and 92%.
    """
    steps = sorted({int(r["step"]) for r in rows})
    if len(steps) < 2:
        return None
    prompts = sorted({r["dialogue_id"] for r in rows})
    proxy, gold = (_table(rows, name, steps, prompts) for name in ("reward", "gold_score"))
    if np.isnan(gold).all():
        return None
    # A row without one of them is left out of both, so that both speak of the same replies.
    missing = np.isnan(proxy) | np.isnan(gold)
    proxy[missing] = gold[missing] = np.nan
    level = false_alarms / max(1, planned - 1)
    rises, falls = (
        simultaneous_changes(table[-1] - table[:-1], level, seed) for table in (proxy, gold)
    )
    hacked = [i for i, rise in enumerate(rises) if rise.low > 0 > falls[i].high]
    since = min(hacked, key=lambda i: falls[i].high) if hacked else 0
    both = int((~np.isnan(proxy[-1] - proxy[since])).sum())
    return Comparison(steps[-1], steps[since], rises[since], falls[since], both, bool(hacked))


def simultaneous_changes(differences: Values, level: float, seed: int = 0) -> list[Change]:
    """Means of `differences` [J, prompts] (NaN: missing) with intervals that hold for all J.

    Each side is off with probability `level` for any of them. A difference that is the same on
    every prompt has an interval without width; with fewer than two prompts it has no bounds.
    """
    valid = ~np.isnan(differences)
    filled = np.where(valid, differences, 0.0)
    ones = np.ones((1, differences.shape[1]))
    mean, error = (part[0] for part in _mean_and_error(ones, filled, valid))
    resamples = min(50_000, max(2_000, math.ceil(20 / level)))
    rng = np.random.default_rng(seed)
    lowest, highest = [], []
    for size in _blocks(resamples, 2_000):
        counts = _draw_counts(rng, size, differences.shape[1])
        drawn, drawn_error = _mean_and_error(counts, filled, valid)
        gap = drawn - mean
        # A draw without spread says nothing of the error: its deviation counts as endless.
        endless = np.where(np.abs(gap) < 1e-12, 0.0, np.copysign(np.inf, gap))
        with np.errstate(divide="ignore", invalid="ignore"):
            studentised = np.where(drawn_error > 0, gap / drawn_error, endless)
        studentised = np.where((error > 0) & np.isfinite(error), studentised, 0.0)
        lowest.append(studentised.min(axis=1))
        highest.append(studentised.max(axis=1))
    rank = max(0, int(level * resamples) - 1)
    down = np.sort(np.concatenate(lowest))[rank]
    up = np.sort(np.concatenate(highest))[-1 - rank]
    return [
        Change(
            float(m), float(m - up * e) if e else float(m), float(m - down * e) if e else float(m)
        )
        for m, e in zip(mean, error, strict=True)
    ]


def _mean_and_error(
    counts: Values, filled: Values, valid: NDArray[np.bool_]
) -> tuple[Values, Values]:
    """Mean and its standard error [R, J] of `filled` [J, P] drawn `counts` [R, P] times."""
    weights = valid.astype(float)
    size = counts @ weights.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = counts @ filled.T / size
        variance = (counts @ (filled**2).T / size - mean**2) * size / (size - 1)
        error = np.sqrt(np.where(variance > 1e-12, variance, 0.0) / size)
    few = size < 2
    return np.where(few, np.nan, mean), np.where(few, np.nan, error)


def _draw_counts(rng: np.random.Generator, resamples: int, prompts: int) -> Values:
    """How often each prompt is drawn, [resamples, prompts]."""
    draws = rng.integers(0, prompts, (resamples, prompts)) + prompts * np.arange(resamples)[:, None]
    counts = np.bincount(draws.ravel(), minlength=resamples * prompts)
    return counts.reshape(resamples, prompts).astype(float)


def _blocks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _table(rows: Sequence[Row], name: str, steps: Sequence[int], prompts: Sequence[str]) -> Values:
    """[steps, prompts]; NaN where there is no value."""
    row_of, column_of = ({k: i for i, k in enumerate(keys)} for keys in (steps, prompts))
    table = np.full((len(steps), len(prompts)), np.nan)
    for r in rows:
        if r[name] is not None:
            table[row_of[int(r["step"])], column_of[r["dialogue_id"]]] = r[name]
    return table


def serious(row: Row) -> bool:
    """Whether the gold evaluator found a major or severe issue."""
    return any(issue["severity"] in SERIOUS for issue in json.loads(row["issues"]))
