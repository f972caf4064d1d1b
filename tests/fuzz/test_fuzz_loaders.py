"""No file makes a loader fail in another way than the documented one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loaders import LOADERS

from repo_ray.data.schema import SCHEMAS
from repo_ray.models.adapters import build_blob

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["1e999", "../x", "http://u:p@h", "​", "\x00", "ÿ", "<|im_end|>", ""])
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


def mutated(value: Any, draw: Callable[[Any], Any]) -> Any:
    """A valid tree with one place of it replaced, removed or doubled."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        rest = {k: v for k, v in value.items() if k != key}
        if draw(st.booleans()):
            return {**rest, key: mutated(value[key], draw)}
        return draw(st.sampled_from([rest, {**rest, key: draw(trees)}, {**value, "odd": 1}]))
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        one = mutated(value[at], draw)
        return draw(
            st.sampled_from([[*value[:at], one, *value[at + 1 :]], [*value, value[at]], value[:at]])
        )
    return draw(trees)


@pytest.mark.parametrize("name", sorted(LOADERS))
@FUZZ
@given(content=st.binary(max_size=200))
@example(content=b"")
@example(content=b"\xff\xfe\x00")
@example(content=b"&a [*a, *a]")
@example(content=b"[" * 5000)
@example(content=b"{" * 5000)
@example(content=b"a: !!python/object/apply:os.system [exit 1]")
@example(content=b"PAR1PAR1")
@example(content=b"2001-99-99")
@example(content=b"a: 0b_")
@example(content=b"!!float y")
@example(content=b"!!timestamp x")
@example(content=b"!!int ''")
@example(content=b"!!bool maybe")
@example(content=b"a: " + b"9" * 5000)
@example(content=b"run: {seed: 0x" + b"f" * 5000 + b"}")
@example(content=b'"\\UFFFFFFFF"')
@example(content=b"? [a]\n: b")
@example(content=b"a: &a {b: *a}")
def test_bytes_are_loaded_or_refused(name: str, content: bytes, tmp_path: Path) -> None:
    LOADERS[name].feed(content, tmp_path)


PACKAGE = Path(__file__).parents[2] / "repo_ray"
CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
YAML = {
    "config": CONFIGS / "quickstart.yaml",
    "comparison": CONFIGS / "compare.yaml",
    "rubric": PACKAGE / "rewards" / "judge" / "negotiation.yaml",
    "rules": PACKAGE / "rewards" / "rules" / "negotiation.yaml",
}


@pytest.mark.parametrize("name", sorted(YAML))
@FUZZ
@given(data=st.data())
def test_a_valid_yaml_file_with_a_fault_is_loaded_or_refused(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    tree = yaml.safe_load(YAML[name].read_text())
    text = yaml.safe_dump(mutated(tree, data.draw), allow_unicode=True)
    LOADERS[name].feed(text.encode("utf-8", "surrogatepass"), tmp_path)


ROW: dict[str, Any] = {
    "prompt_id": "p",
    "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
    "chosen": "good",
    "rejected": "bad",
    "reply": "good",
    "labels": json.dumps({"kind": True}),
    "context": json.dumps({"items": []}),
    "split": "train",
    "dialogue_id": "d",
    "turn": 0,
}


@pytest.mark.parametrize("name", ["prompts", "sft", "verdicts"])
@FUZZ
@given(data=st.data())
def test_a_valid_row_of_json_with_a_fault_is_loaded_or_refused(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    lines = [json.dumps(ROW), json.dumps(mutated(ROW, data.draw))]
    LOADERS[name].feed("\n".join(lines).encode("utf-8", "surrogatepass"), tmp_path)


@pytest.mark.parametrize("name", ["preferences", "dialogues"])
@FUZZ
@given(data=st.data())
def test_a_parquet_file_of_another_schema_is_loaded_or_refused(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    schema = SCHEMAS[name]  # type: ignore[index]
    types = [pa.string(), pa.int64(), pa.float64(), pa.binary(), pa.list_(pa.string()), pa.null()]
    fields, columns = [], []
    for known in schema:
        kind = data.draw(st.sampled_from(["right", "left out", "other"]))
        if kind == "left out":
            continue
        values = [ROW.get(known.name)] * 2
        other = data.draw(st.sampled_from(types))
        try:
            columns.append(pa.array(values, known.type if kind == "right" else other))
        except (pa.ArrowException, TypeError):
            columns.append(pa.nulls(2, other))
        fields.append(pa.field(known.name, columns[-1].type))
    path = tmp_path / "made.parquet"
    pq.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)), path)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    LOADERS[name].feed(content[:cut], tmp_path)


@FUZZ
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 10**6))
def test_a_damaged_adapter_is_loaded_or_refused(
    at: int, value: int, cut: int, tmp_path: Path
) -> None:
    tensors = {
        "model.q.lora_A.weight": torch.ones(2, 3),
        "model.q.lora_B.weight": torch.ones(4, 2),
    }
    blob = bytearray(build_blob(tensors, 2, 4))
    blob[at % len(blob)] = value
    LOADERS["adapter"].feed(bytes(blob)[: len(blob) - cut % 40], tmp_path)
