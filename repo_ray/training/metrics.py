"""One set of numbers per step, to three places: metrics.jsonl, TensorBoard, Ray's metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.util import metrics as ray_metrics
from torch.utils.tensorboard import SummaryWriter

from repo_ray.records import Score

#: Ray histogram boundaries (seconds) must be positive.
LATENCY_BOUNDARIES_S = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]


class MetricsLog:
    """Appends to `metrics.jsonl`; a resumed run first drops the rows that it will write again.

    `resume_step` is the number of updates of the checkpoint, 0 without one: then row 0, which
    holds what was measured before the first update, is written again as well.
    """

    def __init__(self, folder: Path, run_name: str, resume_step: int) -> None:
        self._path = folder / "metrics.jsonl"
        first = resume_step + 1 if resume_step else 0
        rows = [row for row in read_metrics(folder, 0) if row["step"] < first]
        self._path.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
        self._run = run_name
        self._gauges: dict[str, ray_metrics.Gauge] = {}
        self._latency = ray_metrics.Histogram(
            "repo_ray_score_latency_seconds",
            "Latency of one score, by source",
            boundaries=LATENCY_BOUNDARIES_S,
            tag_keys=("run", "source"),
        )
        self._invalid = ray_metrics.Counter(
            "repo_ray_invalid_scores",
            "Scores that could not be had, by source",
            tag_keys=("run", "source"),
        )

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one row. Nested mappings (pools, accounting) go to metrics.jsonl only."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"step": step, **values}))
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._board.add_scalar(name, value, step)
                self._gauge(name).set(value, {"run": self._run})
        self._board.flush()

    def score(self, score: Score) -> None:
        tags = {"run": self._run, "source": score.source}
        self._latency.observe(score.latency_s, tags)
        if not score.valid:
            self._invalid.inc(1, tags)

    def close(self) -> None:
        self._board.close()

    def _gauge(self, name: str) -> ray_metrics.Gauge:
        if name not in self._gauges:
            safe = "repo_ray_" + name.replace("/", "_").replace(".", "_")
            self._gauges[name] = ray_metrics.Gauge(safe, name, tag_keys=("run",))
        return self._gauges[name]


def read_metrics(folder: Path, first: int = 1) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` from step `first` on; a last line cut off by a crash is dropped.

    Row 0, where there is one, has what was measured before the first update and nothing else.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [row for row in rows if row["step"] >= first]


def _line(row: Mapping[str, Any]) -> str:
    """Strict JSON: a number that is not finite (no variance to explain, say) becomes null."""
    plain = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"
