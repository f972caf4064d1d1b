"""The facts that the agent knows, laid out for people: whatever the context holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """A list of objects side by side: a row for each key, a column for each object.

    Keys with words come first, since they say which object it is.
    """

    label: str
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Facts:
    """`single`: label and text of each plain fact; `tables`: those that are lists of objects."""

    single: list[tuple[str, str]]
    tables: list[Table]


def facts(context: str | None) -> Facts:
    """`context` is a JSON object as the evaluation keeps it. Empty entries are left out."""
    single: list[tuple[str, str]] = []
    tables: list[Table] = []
    for key, value in json.loads(context or "{}").items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            keys = dict.fromkeys(k for entry in value for k in entry)
            words = {k for k in keys if any(isinstance(entry.get(k), str) for entry in value)}
            rows = [
                (_label(k), [_text(entry.get(k, "")) for entry in value])
                for k in sorted(keys, key=lambda k: k not in words)
            ]
            tables.append(Table(_label(key), rows))
        else:
            single.append((_label(key), _text(value)))
    return Facts(single, tables)


def _label(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("_", " ") if value.isidentifier() else value
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return json.dumps(value, ensure_ascii=False)
