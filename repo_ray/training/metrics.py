"""One set of numbers per step, to two places: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends to `metrics.jsonl`; a resumed run first drops the rows that it will write again.

    `resume_step` is the number of updates of the checkpoint, 0 without one: then row 0, which
    holds what was measured before the first update, is written again as well.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        self._path = folder / "metrics.jsonl"
        first = resume_step + 1 if resume_step else 0
        rows = [row for row in read_metrics(folder, 0) if row["step"] < first]
        partial = self._path.with_suffix(".partial")  # a kill or a full disk costs no history
        partial.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        partial.replace(self._path)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
        #: Every number, from the last row that has it.
        self.latest: dict[str, float] = {}
        for row in rows:
            self.latest |= _numbers(row)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one row. Nested mappings (pools, accounting) go to metrics.jsonl only."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"step": step, **values}))
        numbers = _numbers(values)
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        self.latest |= numbers

    def close(self) -> None:
        self._board.close()


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


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _line(row: Mapping[str, Any]) -> str:
    """Strict JSON: a number that is not finite (no variance to explain, say) becomes null."""
    plain = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"
