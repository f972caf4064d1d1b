"""Parquet and JSONL files as numbered plain rows; what cannot be read as a row is a fault."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
SUFFIXES = (".parquet", ".jsonl")
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where. `row` counts from 1 (in JSONL it is the line); None where the
    whole file or column is at fault."""

    row: int | None
    field: str
    problem: str

    def __str__(self) -> str:
        where = "file" if self.row is None else f"row {self.row}"
        return (
            f"{where}, {self.field}: {self.problem}" if self.field else f"{where}: {self.problem}"
        )


def read_rows(
    path: Path, wanted: Collection[str], required: Collection[str]
) -> Iterator[tuple[int, Row] | Fault]:
    """Each row with its number, with the `wanted` fields that it has; or a fault in its place.

    JSONL rows lack fields freely here (validation says so row by row); a Parquet file that
    lacks a `required` column is one fault.
    """
    if path.suffix not in SUFFIXES:
        yield Fault(None, "", f"expected a file named {' or '.join('*' + s for s in SUFFIXES)}")
        return
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path, wanted, required)
        else:
            yield from _jsonl_rows(path, wanted)
    except OSError as error:
        yield Fault(None, "", f"cannot be read: {error.strerror or error}")
    except pa.ArrowException as error:
        yield Fault(None, "", f"not a readable Parquet file: {error}")


def _parquet_rows(
    path: Path, wanted: Collection[str], required: Collection[str]
) -> Iterator[tuple[int, Row] | Fault]:
    with pq.ParquetFile(path) as file:
        present = file.schema_arrow.names
        missing = [name for name in required if name not in present]
        yield from (Fault(None, name, "column is missing") for name in missing)
        doubled = sorted({n for n in present if present.count(n) > 1 and n in wanted})
        yield from (Fault(None, name, "column occurs twice") for name in doubled)
        if missing or doubled:
            return
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=[n for n in present if n in wanted]):
            try:
                rows: list[Row | Fault] = list(batch.to_pylist())
            except UnicodeDecodeError:
                rows = [_decoded(batch, at, number + at + 1) for at in range(batch.num_rows)]
            for row in rows:
                number += 1
                yield row if isinstance(row, Fault) else (number, row)


def _decoded(batch: pa.RecordBatch, at: int, number: int) -> Row | Fault:
    """One row of a batch that has undecodable text somewhere."""
    row: Row = {}
    for name in batch.schema.names:
        try:
            row[name] = batch.column(name)[at].as_py()
        except UnicodeDecodeError:
            return Fault(number, name, "not valid UTF-8")
    return row


def _jsonl_rows(path: Path, wanted: Collection[str]) -> Iterator[tuple[int, Row] | Fault]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield Fault(number, "", f"not valid UTF-8 (byte {error.start + 1} of the line)")
                continue
            if not line.strip():
                yield Fault(number, "", "blank line")
                continue
            try:
                value = json.loads(
                    line, object_pairs_hook=_unique_keys, parse_constant=_no_constant
                )
            except (ValueError, RecursionError) as error:
                yield Fault(number, "", f"not valid JSON: {error}")
            else:
                if isinstance(value, dict):
                    yield number, {k: v for k, v in value.items() if k in wanted}
                else:
                    yield Fault(number, "", f"expected a JSON object, found {type(value).__name__}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses an object that names a key twice, since one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [k for k, _ in pairs]
        doubled = next(k for k in names if names.count(k) > 1)
        raise ValueError(f"the key {doubled!r} occurs twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
