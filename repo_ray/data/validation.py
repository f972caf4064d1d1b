"""Finds every fault of a data set and names its row and field."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repo_ray.data.rows import Fault, Row, read_rows
from repo_ray.data.schema import HIDDEN, ROLES, SCHEMAS, Kind, columns, required

__all__ = ["DataError", "Fault", "checked_rows", "validate"]

_SHOWN = 20
_SURROGATE = "contains a lone surrogate, which is not valid Unicode"
#: Letters and marks that show nothing by themselves: fillers, joiners, variation selectors.
_BLANKS = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)))
)


class DataError(Exception):
    """A data set cannot be used. `faults` has all of them; the message shows the first 20."""

    def __init__(self, path: Path, faults: Sequence[Fault]) -> None:
        self.path = path
        self.faults = tuple(faults)
        count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''}"
        more = [f"  ... and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        super().__init__(
            "\n".join([f"{path}: {count}", *(f"  {f}" for f in faults[:_SHOWN]), *more])
        )


def validate(path: Path, kind: Kind) -> list[Fault]:
    """Every fault of the file, read as `kind` (empty: the file can be used)."""
    return checked_rows(path, kind, columns(kind))[1]


def checked_rows(
    path: Path, kind: Kind, wanted: Sequence[str]
) -> tuple[list[tuple[int, Row]], list[Fault]]:
    """The numbered rows with the `wanted` columns, and every fault found in them."""
    rows: list[tuple[int, Row]] = []
    faults: list[Fault] = []
    for entry in read_rows(path, wanted, required(kind)):
        if isinstance(entry, Fault):
            faults.append(entry)
        else:
            rows.append(entry)
            faults.extend(_row_faults(*entry, kind, wanted))
    if not rows and not faults:
        faults.append(Fault(None, "", "the data set is empty"))
    faults.extend(_repetitions(rows, kind))
    return rows, sorted(faults, key=lambda f: f.row or 0)


def labels_of(value: Any) -> dict[Any, Any] | None:
    """A verdict's labels as a dict: JSON has an object, an Arrow map a list of pairs."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs = isinstance(value, list) and all(isinstance(p, tuple) and len(p) == 2 for p in value)
    return dict(value) if pairs and len(dict(value)) == len(value) else None


def object_of(value: Any) -> dict[str, Any] | None:
    """A JSON object, given as text or (JSONL only) as it is; None where it is neither."""
    if isinstance(value, dict):
        return value
    try:
        parsed = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _row_faults(number: int, row: Row, kind: Kind, wanted: Sequence[str]) -> Iterator[Fault]:
    needed = required(kind)
    before = 0
    for name in wanted:
        value = row.get(name)
        if value is None:
            if name in needed:
                before += 1
                yield Fault(number, name, "is null" if name in row else "is missing")
            continue
        for where, problem in _CHECKS[_check_of(name, kind)](value):
            before += 1
            yield Fault(number, name + where, problem)
    if before == 0 and kind == "preferences" and row["chosen"].strip() == row["rejected"].strip():
        yield Fault(number, "rejected", "is the same reply as chosen")


def _repetitions(rows: Sequence[tuple[int, Row]], kind: Kind) -> Iterator[Fault]:
    """Prompts and dialogue turns occur once; elsewhere a prompt may have several replies."""
    alone = kind in ("prompts", "dialogues")
    prompts: dict[str, tuple[int, Any]] = {}
    entries: dict[tuple[Any, ...], int] = {}
    for number, row in rows:
        prompt_id = row.get("prompt_id")
        if isinstance(prompt_id, str):
            first, messages = prompts.setdefault(prompt_id, (number, row.get("messages")))
            if first != number and alone:
                yield Fault(number, "prompt_id", f"{prompt_id!r} is already in row {first}")
            elif first != number and messages != row.get("messages"):
                problem = f"{prompt_id!r} has other messages than in row {first}"
                yield Fault(number, "prompt_id", problem)
        names = {
            "dialogues": ("dialogue_id", "turn"),
            "preferences": ("prompt_id", "chosen", "rejected"),
            "sft": ("prompt_id", "reply"),
            "verdicts": ("prompt_id", "reply"),
        }.get(kind)
        if names:
            entry = tuple(row.get(name) for name in names)
            if all(isinstance(part, str | int) for part in entry):
                first = entries.setdefault(entry, number)
                if first != number:
                    problem = f"same {', '.join(names)} as row {first}"
                    yield Fault(number, names[-1], problem)


_Problems = Iterator[tuple[str, str]]


def _text(value: Any) -> _Problems:
    if not isinstance(value, str):
        yield "", f"expected a string, found {type(value).__name__}"
    elif not _encodable(value):
        yield "", _SURROGATE


def _filled_text(value: Any) -> _Problems:
    yield from _text(value)
    if isinstance(value, str) and all(map(_invisible, value)):
        yield "", "is empty" if not value.strip() else "has no visible character"


def _whole_number(value: Any) -> _Problems:
    if not isinstance(value, int) or isinstance(value, bool):
        yield "", f"expected a whole number, found {type(value).__name__}"


def _json_object(value: Any) -> _Problems:
    parsed = object_of(value)
    if not isinstance(value, str | dict):
        yield "", f"expected a JSON object, found {type(value).__name__}"
    elif parsed is None:
        yield "", "is not a JSON object"
    else:
        try:
            storable = _encodable(json.dumps(parsed, ensure_ascii=False))  # escapes are resolved
        except RecursionError:
            yield "", "is nested too deeply"
        else:
            if not storable:
                yield "", _SURROGATE


def _labels(value: Any) -> _Problems:
    labels = labels_of(value)
    if labels is None:
        yield "", "expected a map from criterion id to true or false"
        return
    if not labels:
        yield "", "is empty"
    for key, applies in labels.items():
        if not isinstance(key, str) or not key:
            yield "", f"expected criterion ids as keys, found {key!r}"
        elif not isinstance(applies, bool):
            yield f"[{key!r}]", f"expected true or false, found {applies!r}"


def _messages(value: Any) -> _Problems:
    if not isinstance(value, list):
        yield "", f"expected a list of messages, found {type(value).__name__}"
        return
    if not value:
        yield "", "is empty"
    for at, message in enumerate(value):
        if not isinstance(message, dict):
            yield f"[{at}]", f"expected role and content, found {type(message).__name__}"
            continue
        role = message.get("role")
        if role not in ROLES:
            yield f"[{at}].role", f"expected one of {', '.join(ROLES)}, found {role!r}"
        elif role == "system" and at > 0:
            yield f"[{at}].role", "a system message can only be the first"
        if message.get("content") is None:
            yield f"[{at}].content", "is missing"
        else:
            for _, problem in _filled_text(message["content"]):
                yield f"[{at}].content", problem
    last = value[-1] if value else None
    if isinstance(last, dict) and last.get("role") in ("system", "assistant"):
        yield f"[{len(value) - 1}].role", "the last message must be from user"


_CHECKS: dict[str, Callable[[Any], _Problems]] = {
    "text": _text,
    "filled_text": _filled_text,
    "whole_number": _whole_number,
    "json_object": _json_object,
    "labels": _labels,
    "messages": _messages,
}


def _check_of(name: str, kind: Kind) -> str:
    if name in ("messages", "labels"):
        return name
    if name in ("context", HIDDEN):
        return "json_object"
    if name == "turn":
        return "whole_number"
    return "text" if SCHEMAS[kind].field(name).nullable else "filled_text"


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _invisible(character: str) -> bool:
    """Spaces, controls, and what has no width, such as U+200B."""
    blank = character in _BLANKS or unicodedata.category(character) in ("Cc", "Cf")
    return blank or character.isspace()
