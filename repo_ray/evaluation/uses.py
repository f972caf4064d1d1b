"""Who looked at which evaluation set, when: a final set that is used for tuning is none any more.

The development set is there for tuning. Every use of the final sets (online and bad cases) is
noted in the run's folder, so that a reader can see how often they were looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Below the run's folder.
USES = Path("evaluation") / "uses.jsonl"
SETS = ("online", "badcases", "development")


def log_use(
    run_folder: Path, set_name: str, purpose: str, *, column: str, data_file: Path
) -> dict[str, Any]:
    """Appends one line to `evaluation/uses.jsonl` and returns it.

    Keys: `time` (UTC, ISO 8601), `set`, `column`, `purpose`, `file` and its `sha256`. Raises
    ValueError for an unknown set or an empty purpose, FileNotFoundError without the file.
    """
    if set_name not in SETS:
        raise ValueError(f"evaluation set {set_name!r}: expected one of {', '.join(SETS)}")
    if not purpose.strip():
        raise ValueError(f"use of {set_name}: a purpose was expected")
    use = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "set": set_name,
        "column": column,
        "purpose": purpose,
        "file": data_file.name,
        "sha256": hashlib.sha256(data_file.read_bytes()).hexdigest(),
    }
    path = run_folder / USES
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(use, ensure_ascii=False) + "\n").encode()
    # One write in append mode: lines of processes that log at the same time do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return use


def read_uses(run_folder: Path) -> list[dict[str, Any]]:
    """All uses in order; empty where none was logged. Raises ValueError naming a broken line."""
    path = run_folder / USES
    if not path.exists():
        return []
    uses = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            uses.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
    return uses
