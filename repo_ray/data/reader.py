"""Reads data sets, the project's own and other people's, into typed records.

Every reader raises `DataError`, which lists the faults, before it returns anything. None of
them loads the `hidden` column; `read_hidden`, for the gold evaluator, is apart.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from repo_ray.data.examples import Demonstration, DialogueTurn, Preference, Verdict
from repo_ray.data.rows import Row
from repo_ray.data.schema import HIDDEN, Kind, columns
from repo_ray.data.validation import DataError, Fault, checked_rows, labels_of, object_of
from repo_ray.records import Message, Prompt

#: Share of the prompts held out where the data says nothing of splits.
_HELDOUT_SHARE = 0.1


def read_prompts(path: Path, split: str | None = None) -> list[Prompt]:
    """All prompts, or those of one split. Raises `DataError`."""
    return [_prompt(row) for row in _rows(path, "prompts", split)]


def read_preferences(path: Path, split: str | None = None) -> list[Preference]:
    """All preference pairs, or those of one split. Raises `DataError`."""
    return [
        Preference(
            _prompt(row),
            row["chosen"],
            row["rejected"],
            row["split"],
            row.get("source") or "",
            row.get("defect") or "",
        )
        for row in _rows(path, "preferences", split)
    ]


def read_sft(path: Path, split: str | None = None) -> list[Demonstration]:
    """All demonstrations, or those of one split. Raises `DataError`."""
    return [
        Demonstration(_prompt(row), row["reply"], row["split"]) for row in _rows(path, "sft", split)
    ]


def read_verdicts(path: Path, split: str | None = None) -> list[Verdict]:
    """All labelled replies, or those of one split. Raises `DataError`."""
    return [
        Verdict(_prompt(row), row["reply"], labels_of(row["labels"]) or {}, row["split"])
        for row in _rows(path, "verdicts", split)
    ]


def read_dialogues(path: Path) -> list[DialogueTurn]:
    """All agent turns of evaluation dialogues, in the file's order. Raises `DataError`."""
    return [
        DialogueTurn(
            row["dialogue_id"],
            row["turn"],
            _prompt(row),
            row.get("issue") or "",
            row.get("annotation") or "",
        )
        for row in _rows(path, "dialogues", None)
    ]


def read_hidden(path: Path, kind: Kind) -> dict[str, dict[str, Any]]:
    """Hidden truth by prompt id, for the gold evaluator alone; {} where a row has none.

    `kind` is `prompts` or `dialogues`. Raises `DataError`.
    """
    rows, faults = checked_rows(path, kind, columns(kind))
    if faults:
        raise DataError(path, faults)
    return {row["prompt_id"]: object_of(row.get(HIDDEN)) or {} for _, row in rows}


def _rows(path: Path, kind: Kind, split: str | None) -> list[Row]:
    wanted = [name for name in columns(kind) if name != HIDDEN]
    numbered, faults = checked_rows(path, kind, wanted)
    if faults:
        raise DataError(path, faults)
    rows = [row for _, row in numbered]
    held = _held_out(sorted({row["prompt_id"] for row in rows if not row.get("split")}))
    for row in rows:
        row["split"] = row.get("split") or ("heldout" if row["prompt_id"] in held else "train")
    chosen = [row for row in rows if split is None or row["split"] == split]
    if not chosen:
        raise DataError(path, [Fault(None, "split", f"no row has the split {split!r}")])
    return chosen


def _held_out(prompt_ids: list[str]) -> set[str]:
    """Which prompts without a split are held out: a tenth, one at least of two or more, chosen
    by the hash of their ids, so that it never depends on order."""
    if len(prompt_ids) < 2:
        return set()
    ranked = sorted(prompt_ids, key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    return set(ranked[: max(1, round(len(ranked) * _HELDOUT_SHARE))])


def _prompt(row: Row) -> Prompt:
    messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
    return Prompt(row["prompt_id"], messages, object_of(row.get("context")) or {})
