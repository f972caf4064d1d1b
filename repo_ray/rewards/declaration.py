"""Reads the YAML files in which users declare rules and rubrics."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from repo_ray.config.load import ConfigError, parse_yaml

Model = TypeVar("Model", bound=BaseModel)


class RewardConfigError(ConfigError, ValueError):
    """A rule or rubric file cannot be used. The message names file, key and what was expected."""


def read_declaration(path: Path, model: type[Model]) -> Model:
    """Reads `path` and validates it as `model`. Raises `RewardConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = parse_yaml(text)
        duplicate = _duplicate_key(yaml.compose(text, Loader=yaml.SafeLoader))
    except OSError as error:
        raise RewardConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RewardConfigError(f"{path}: not valid YAML: {error}") from None
    if duplicate is not None:
        raise RewardConfigError(f"{path}: {duplicate}")
    if not isinstance(tree, dict):
        raise RewardConfigError(f"{path}: expected a mapping, found {type(tree).__name__}")
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [f"{path}: {_key(e['loc'])}: {_message(e)}" for e in error.errors()]
        raise RewardConfigError("\n".join(lines)) from None


def _key(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")


def _message(error: object) -> str:
    assert isinstance(error, dict)
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "missing"
    return f"{error['msg']} (found {error['input']!r})"


def _duplicate_key(node: yaml.Node | None) -> str | None:
    """YAML readers keep the last of two equal keys without a word: half a file can vanish."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                return f"line {key.start_mark.line + 1}: key {key.value!r} appears twice"
            seen.add(key.value)
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    else:
        return None
    return next((found for child in children if (found := _duplicate_key(child))), None)
