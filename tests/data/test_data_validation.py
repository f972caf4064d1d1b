"""Every fault is named with row and field, in both formats, and good data has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.data import DataError, Kind, read_preferences, read_prompts, validate
from repo_ray.data.schema import SCHEMAS

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
GOOD: dict[Kind, dict[str, Any]] = {
    "prompts": {"prompt_id": "p1", "messages": CHAT},
    "preferences": {"prompt_id": "p1", "messages": CHAT, "chosen": "Hi.", "rejected": "No."},
    "sft": {"prompt_id": "p1", "messages": CHAT, "reply": "Hi."},
    "verdicts": {"prompt_id": "p1", "messages": CHAT, "reply": "Hi.", "labels": {"kind": True}},
    "dialogues": {"dialogue_id": "d", "turn": 1, "prompt_id": "p1", "messages": CHAT},
}


def write_jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize("kind", GOOD)
def test_minimal_rows_are_good(tmp_path: Path, kind: Kind) -> None:
    assert validate(write_jsonl(tmp_path / "d.jsonl", GOOD[kind]), kind) == []


@pytest.mark.parametrize(
    ("kind", "change", "field", "problem"),
    [
        ("prompts", {"prompt_id": None}, "prompt_id", "is null"),
        ("prompts", {"prompt_id": "  "}, "prompt_id", "is empty"),
        ("prompts", {"prompt_id": 7}, "prompt_id", "expected a string, found int"),
        ("prompts", {"messages": []}, "messages", "is empty"),
        ("prompts", {"messages": "hi"}, "messages", "expected a list"),
        ("prompts", {"messages": ["hi"]}, "messages[0]", "expected role and content"),
        ("prompts", {"messages": chat(("bot", "x"), ("user", "y"))}, "messages[0].role", "'bot'"),
        (
            "prompts",
            {"messages": chat(("user", "x"), ("system", "y"), ("user", "z"))},
            "messages[1].role",
            "can only be the first",
        ),
        (
            "prompts",
            {"messages": chat(("user", "x"), ("assistant", "y"))},
            "messages[1].role",
            "must be from user",
        ),
        ("prompts", {"messages": chat(("user", " "))}, "messages[0].content", "is empty"),
        *(
            ("prompts", {"messages": chat(("user", t))}, "messages[0].content", "has no visible")
            for t in ("\u200b", "\ufeff \u2060\n", "\u200d\ufe0f", "\u3164", "\u202e\u202c", "\x00")
        ),
        ("prompts", {"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        (
            "prompts",
            {"messages": chat(("user", "\ud800"))},
            "messages[0].content",
            "lone surrogate",
        ),
        ("prompts", {"context": "[1]"}, "context", "not a JSON object"),
        ("prompts", {"context": "{broken"}, "context", "not a JSON object"),
        ("prompts", {"context": {"a": ["\udfff"]}}, "context", "lone surrogate"),
        ("prompts", {"context": {"\ud800": 1}}, "context", "lone surrogate"),
        ("prompts", {"context": r'{"a": "\ud800"}'}, "context", "lone surrogate"),
        ("dialogues", {"hidden": r'{"\ud800": 1}'}, "hidden", "lone surrogate"),
        ("prompts", {"hidden": 3}, "hidden", "expected a JSON object"),
        ("prompts", {"split": 3}, "split", "expected a string"),
        ("preferences", {"chosen": "No. "}, "rejected", "same reply as chosen"),
        ("preferences", {"rejected": ""}, "rejected", "is empty"),
        ("sft", {"reply": None}, "reply", "is null"),
        ("verdicts", {"labels": ["kind"]}, "labels", "expected a map"),
        ("verdicts", {"labels": {}}, "labels", "is empty"),
        ("verdicts", {"labels": {"kind": "yes"}}, "labels['kind']", "true or false"),
        ("dialogues", {"turn": "1"}, "turn", "whole number"),
        ("dialogues", {"turn": True}, "turn", "whole number"),
    ],
)
def test_fault_is_named(
    tmp_path: Path, kind: Kind, change: dict[str, Any], field: str, problem: str
) -> None:
    good, bad = GOOD[kind], {**GOOD[kind], "prompt_id": "p2", "dialogue_id": "e", **change}
    faults = validate(write_jsonl(tmp_path / "d.jsonl", good, bad), kind)
    assert [(f.row, f.field) for f in faults] == [(2, field)]
    assert problem in faults[0].problem


@pytest.mark.parametrize("kind", GOOD)
def test_each_missing_field_is_named(tmp_path: Path, kind: Kind) -> None:
    for field in GOOD[kind]:
        row = {k: v for k, v in GOOD[kind].items() if k != field}
        faults = validate(write_jsonl(tmp_path / "d.jsonl", row), kind)
        assert [(f.row, f.field, f.problem) for f in faults] == [(1, field, "is missing")]


def test_every_fault_of_a_file_is_listed(tmp_path: Path) -> None:
    rows = [{"prompt_id": f"p{i}", "messages": []} for i in range(25)]
    path = write_jsonl(tmp_path / "d.jsonl", *rows)
    assert len(validate(path, "prompts")) == 25
    with pytest.raises(DataError) as raised:
        read_prompts(path)
    text = str(raised.value)
    assert "25 faults" in text
    assert "row 20, messages: is empty" in text
    assert "row 21" not in text
    assert "and 5 more" in text


def test_broken_lines_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    good = json.dumps(GOOD["prompts"]).encode()
    lines = [good, b"{oops", b'"text"', b"\xff\xfe", b"", b'{"prompt_id": "a", "prompt_id": "b"}']
    path.write_bytes(b"\n".join([*lines, b'{"prompt_id": NaN}', b""]))
    faults = validate(path, "prompts")
    assert [f.row for f in faults] == [2, 3, 4, 5, 6, 7]
    for fault, part in zip(
        faults, ("JSON", "JSON object", "UTF-8", "blank", "twice", "NaN"), strict=True
    ):
        assert part in fault.problem


def test_repeated_rows(tmp_path: Path) -> None:
    prompt, pair = GOOD["prompts"], GOOD["preferences"]
    [fault] = validate(write_jsonl(tmp_path / "a.jsonl", prompt, prompt), "prompts")
    assert (fault.row, fault.field) == (2, "prompt_id")
    # One prompt may have several pairs, but not the same pair twice nor other messages.
    several = write_jsonl(tmp_path / "b.jsonl", pair, {**pair, "rejected": "Never."})
    assert validate(several, "preferences") == []
    [fault] = validate(write_jsonl(tmp_path / "c.jsonl", pair, pair), "preferences")
    assert "same prompt_id, chosen, rejected as row 1" in fault.problem
    other = {**pair, "messages": chat(("user", "Other")), "chosen": "Yes."}
    [fault] = validate(write_jsonl(tmp_path / "d.jsonl", pair, other), "preferences")
    assert "other messages than in row 1" in fault.problem


def test_file_faults(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "noise.parquet").write_bytes(b"no parquet")
    (tmp_path / "data.csv").write_text("a,b\n")
    pq.write_table(SCHEMAS["sft"].empty_table(), tmp_path / "empty.parquet")
    for name, part in {
        "empty.jsonl": "empty",
        "empty.parquet": "empty",
        "noise.parquet": "Parquet",
        "data.csv": "*.parquet",
        "absent.jsonl": "No such file",
        "absent.parquet": "No such file",
    }.items():
        [fault] = validate(tmp_path / name, "sft")
        assert fault.row is None
        assert part in fault.problem, name


def test_missing_parquet_columns_are_each_named(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt_id": ["a"], "chosen": ["x"]}), path)
    faults = validate(path, "preferences")
    assert [(f.row, f.field, f.problem) for f in faults] == [
        (None, "messages", "column is missing"),
        (None, "rejected", "column is missing"),
    ]
    with pytest.raises(DataError, match="messages: column is missing"):
        read_preferences(path)


def test_parquet_with_wrong_types_and_nulls(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt_id": [1, 2], "messages": ["hi", None]}), path)
    assert [(f.row, f.field) for f in validate(path, "prompts")] == [
        (1, "prompt_id"),
        (1, "messages"),
        (2, "prompt_id"),
        (2, "messages"),
    ]


def test_parquet_with_undecodable_text_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    good = pa.array([b"a", b"\xff"], pa.binary())
    bad = pa.StringArray.from_buffers(2, *good.buffers()[1:])
    messages = pa.array([CHAT, CHAT], SCHEMAS["prompts"].field("messages").type)
    pq.write_table(pa.table({"prompt_id": bad, "messages": messages}), path)
    [fault] = validate(path, "prompts")
    assert (fault.row, fault.field) == (2, "prompt_id")
    assert "UTF-8" in fault.problem


#: Lone surrogates are among the characters; JSON can escape them.
any_text = st.text(st.characters(exclude_categories=()), max_size=5)
trees = st.recursive(
    any_text | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(any_text, trees, max_size=3), st.booleans())
def test_a_context_is_stored_as_it_is_or_refused_with_its_row(
    tmp_path_factory: pytest.TempPathFactory, context: dict[str, Any], as_text: bool
) -> None:
    given_as = json.dumps(context) if as_text else context
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    write_jsonl(path, GOOD["prompts"] | {"context": given_as, "split": "train"})
    text = json.dumps(context, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in text):
        with pytest.raises(DataError, match="row 1, context: contains a lone surrogate"):
            read_prompts(path)
    else:
        [prompt] = read_prompts(path)
        assert prompt.context == context
        assert pa.array([text]).to_pylist() == [text]


@pytest.mark.parametrize("depth", [900, 2000])
def test_a_context_that_is_nested_too_deeply_is_a_fault_and_no_crash(
    tmp_path: Path, depth: int
) -> None:
    text = '{"a": ' * depth + "1" + "}" * depth
    row = json.dumps(GOOD["prompts"])[:-1] + f', "context": {text}}}'
    (tmp_path / "d.jsonl").write_text(row)
    assert len(validate(tmp_path / "d.jsonl", "prompts")) <= 1
