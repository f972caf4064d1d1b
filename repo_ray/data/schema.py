"""The kinds of data set: their columns, and which of them may be missing or null."""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

from repo_ray.records import (
    DIALOGUES_SCHEMA,
    PREFERENCES_SCHEMA,
    PROMPTS_SCHEMA,
    SFT_SCHEMA,
    VERDICTS_SCHEMA,
)

Kind = Literal["prompts", "preferences", "sft", "verdicts", "dialogues"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SCHEMAS: dict[Kind, pa.Schema] = {
    "prompts": PROMPTS_SCHEMA,
    "preferences": PREFERENCES_SCHEMA,
    "sft": SFT_SCHEMA,
    "verdicts": VERDICTS_SCHEMA,
    "dialogues": DIALOGUES_SCHEMA,
}

ROLES = ("system", "user", "assistant")
#: The column that training must never see; `reader.read_hidden` alone loads it.
HIDDEN = "hidden"


def required(kind: Kind) -> tuple[str, ...]:
    """Columns that every row must have; the others may be null or left out."""
    return tuple(f.name for f in SCHEMAS[kind] if not f.nullable)


def columns(kind: Kind) -> tuple[str, ...]:
    """All columns of the schema. Further columns in a file are allowed and not read."""
    return tuple(SCHEMAS[kind].names)
