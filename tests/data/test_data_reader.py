"""Readers return what was written, from both formats, and training never sees `hidden`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repo_ray.data import (
    DataError,
    read_dialogues,
    read_hidden,
    read_preferences,
    read_prompts,
    read_sft,
    read_verdicts,
    reader,
)
from repo_ray.data.schema import SCHEMAS, Kind
from repo_ray.records import Message

_text = st.text(st.characters(codec="utf-8")).map("{}.".format)  # something of it is visible
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def _rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(_text, min_size=1, max_size=5, unique=True))
    rows = []
    for prompt_id in ids:
        system = [{"role": "system", "content": draw(_text)}] if draw(st.booleans()) else []
        body = [
            {"role": role, "content": draw(_text)}
            for _ in range(draw(st.integers(0, 2)))
            for role in ("user", "assistant")
        ]
        messages = [*system, *body, {"role": "user", "content": draw(_text)}]
        context = draw(st.none() | st.dictionaries(_text, _json, max_size=3))
        rows.append({"prompt_id": prompt_id, "messages": messages, "context": context})
    return rows


def _store(folder: Path, kind: Kind, rows: list[dict[str, Any]], form: str) -> Path:
    path = folder / f"data.{form}"
    stored = [
        {**r, "context": None if r.get("context") is None else json.dumps(r["context"])}
        for r in rows
    ]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(stored, schema=SCHEMAS[kind]), path)
    else:
        lines = [json.dumps(r, ensure_ascii=i % 2 == 0) + "\n" for i, r in enumerate(stored)]
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_rows())
def test_prompts_round_trip(tmp_path: Path, form: str, rows: list[dict[str, Any]]) -> None:
    prompts = read_prompts(_store(tmp_path, "prompts", rows, form))
    assert [
        {
            "prompt_id": p.prompt_id,
            "messages": [{"role": m.role, "content": m.content} for m in p.messages],
            "context": dict(p.context),
        }
        for p in prompts
    ] == [{**r, "context": r["context"] or {}} for r in rows]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.dictionaries(_text, st.booleans(), min_size=1, max_size=4), reply=_text)
def test_verdicts_round_trip(
    tmp_path: Path, form: str, labels: dict[str, bool], reply: str
) -> None:
    stored = list(labels.items()) if form == "parquet" else labels
    row = {"prompt_id": "a", "messages": [{"role": "user", "content": "x"}]}
    path = _store(tmp_path, "verdicts", [{**row, "reply": reply, "labels": stored}], form)
    [verdict] = read_verdicts(path)
    assert (verdict.reply, dict(verdict.labels)) == (reply, labels)


ROW = {"prompt_id": "a", "messages": [{"role": "user", "content": "你好 — ça va?"}]}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_other_kinds(tmp_path: Path, form: str) -> None:
    (tmp_path / form).mkdir()
    pair = {**ROW, "chosen": "b", "rejected": "c", "source": "expert", "defect": "rude"}
    [preference] = read_preferences(_store(tmp_path, "preferences", [pair], form))
    assert (preference.chosen, preference.rejected) == ("b", "c")
    assert (preference.source, preference.defect) == ("expert", "rude")
    [demonstration] = read_sft(_store(tmp_path, "sft", [{**ROW, "reply": "d"}], form))
    assert demonstration.prompt.messages == (Message("user", "你好 — ça va?"),)
    turn = {**ROW, "dialogue_id": "x", "turn": 2, "issue": "silence"}
    [read] = read_dialogues(_store(tmp_path, "dialogues", [turn], form))
    assert (read.dialogue_id, read.turn, read.issue) == ("x", 2, "silence")


def test_foreign_columns_and_context_as_object(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    row = {**ROW, "context": {"order": 17}, "annotator": "n3"}
    path.write_text(json.dumps(row), encoding="utf-8")
    [prompt] = read_prompts(path)
    assert prompt.context == {"order": 17}


def test_verdict_labels_may_be_a_struct_column(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    row = {**ROW, "reply": "d", "labels": {"polite": True, "long": False}}
    pq.write_table(pa.Table.from_pylist([row]), path)
    [verdict] = read_verdicts(path)
    assert verdict.labels == {"polite": True, "long": False}


def test_named_splits_are_kept(tmp_path: Path) -> None:
    rows = [{**ROW, "prompt_id": str(i), "split": "dev" if i < 2 else "train"} for i in range(5)]
    path = _store(tmp_path, "prompts", rows, "parquet")
    assert [p.prompt_id for p in read_prompts(path, "dev")] == ["0", "1"]
    with pytest.raises(DataError, match="no row has the split 'heldout'"):
        read_prompts(path, "heldout")


def test_rows_without_split_are_held_out_by_prompt(tmp_path: Path) -> None:
    rows = [
        {**ROW, "prompt_id": str(i // 2), "chosen": f"b{i}", "rejected": "c"} for i in range(100)
    ]
    path = _store(tmp_path, "preferences", rows, "jsonl")
    train = {p.prompt.prompt_id for p in read_preferences(path, "train")}
    held = {p.prompt.prompt_id for p in read_preferences(path, "heldout")}
    assert len(held) == 5
    assert not train & held
    assert len(train | held) == 50
    turned = _store(tmp_path, "preferences", rows[::-1], "parquet")
    assert {p.prompt.prompt_id for p in read_preferences(turned, "heldout")} == held


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_training_never_loads_hidden(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**ROW, "hidden": json.dumps({"reservation_price": {"T1": 372}})}]
    path = _store(tmp_path, "prompts", rows, form)
    loaded: list[set[str]] = []
    real = reader.checked_rows

    def spy(*arguments: Any) -> Any:
        rows, faults = real(*arguments)
        loaded.extend(set(row) for _, row in rows)
        return rows, faults

    monkeypatch.setattr(reader, "checked_rows", spy)
    [prompt] = read_prompts(path)
    assert loaded
    assert all("hidden" not in row for row in loaded)
    assert "372" not in repr(prompt)
    assert read_hidden(path, "prompts") == {"a": {"reservation_price": {"T1": 372}}}
