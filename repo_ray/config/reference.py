"""The config reference, generated from the settings: key, type, default, reason or source."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from repo_ray.config.settings import Config


def reference() -> str:
    """All settings as Markdown, one table per section."""
    lines = [
        "# Config reference",
        "",
        "Every key with its default and the reason or source of that default. On the command line "
        "a key is set as `section.key=value`; unknown keys are refused. Paths in a config file that "
        "begin with ./ or ../ start at the file's folder, other relative ones at the current folder.",
        "",
        "`repo-ray config` prints this page.",
        "",
    ]
    for name, model, default, note in _sections(Config, "", Config()):
        what = " ".join(f"{model.__doc__ or ''} {note}".split())
        lines += [f"## {name}", "", what, ""]
        lines += ["| key | type | default | why |", "|---|---|---|---|"]
        for key, field in model.model_fields.items():
            if _settings(field.annotation):
                continue
            value = json.dumps(_plain(getattr(default, key)), ensure_ascii=False)
            why = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{key}` | {_type(field)} | `{value}` | {why} |")
        lines.append("")
    return "\n".join(lines)


def _sections(
    model: type[BaseModel], prefix: str, default: BaseModel
) -> Iterator[tuple[str, type[BaseModel], BaseModel, str]]:
    """Every section below `model`, with the values it has when nothing is set, and what there is to
    say of the section as a whole."""
    for key, field in model.model_fields.items():
        section = _settings(field.annotation)
        if section is not None:
            given = getattr(default, key)
            value = given or section()
            name = f"{prefix}{key}"
            off = "Off (null) unless set; then:" if given is None else ""
            yield name, section, value, f"{field.description or ''} {off}".strip()
            yield from _sections(section, f"{name}.", value)


def _settings(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation stands for (`X` or `X | None`), None for a plain value."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _type(field: FieldInfo) -> str:
    limits = [str(m) for m in field.metadata if type(m).__name__ in ("Ge", "Gt", "Le", "Lt")]
    return " ".join([_name(field.annotation), *map(_limit, limits)]).replace("|", "\\|")


def _limit(text: str) -> str:
    kind, _, value = text.rstrip(")").partition("(")
    signs = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
    return f"{signs[kind]} {value.partition('=')[2]}"


def _name(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(args[0])
    if origin is Literal:
        return " or ".join(f"`{a}`" for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _name(a) for a in args)
    if origin is not None:
        return f"{origin.__name__} of {' to '.join(_name(a) for a in args if a is not Ellipsis)}"
    return {"Path": "path", "str": "text"}.get(annotation.__name__, annotation.__name__)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str | dict):
        return value
    return value.value if isinstance(value, Enum) else str(value)
