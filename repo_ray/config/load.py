"""Reads a config: YAML file, then dotted overrides, then validation.

Also the only place that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from repo_ray.config.settings import Config


class ConfigError(Exception):
    """The config cannot be used. The message names file, key and what was expected."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads `path` (YAML; null: all defaults), applies `section.key=value` overrides, validates.

    Texts in the file that begin with ./ or ../ are paths that start at its folder; other relative
    paths, and those of overrides, start at the current folder. Values of overrides are parsed as
    YAML. Raises `ConfigError`.
    """
    tree = read_tree(path) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    return validate(tree, str(path) if path is not None else "config")


def validate(tree: dict[str, Any], origin: str) -> Config:
    """Turns a plain tree into a `Config`; `origin` names it in errors. Raises `ConfigError`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [f"{origin}: {describe(e)}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def dump_config(config: Config) -> str:
    """The complete config as YAML; holds no secret, since keys are named, never stored."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def environment(name: str) -> str | None:
    """An environment variable, empty counted as absent."""
    return os.environ.get(name) or None


def read_yaml(path: Path) -> dict[str, Any]:
    """A file's mapping of sections; {} for an empty file. Raises `ConfigError`."""
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(tree).__name__}")
    return tree


def parse_yaml(text: str) -> Any:
    """What a YAML text says. Raises `ValueError` with the reason why it says nothing."""
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # for a scalar that its tag does not fit, PyYAML raises anything
        raise ValueError(f"{type(error).__name__}: {error}") from None


def read_tree(path: Path) -> dict[str, Any]:
    """A config file's sections, with its ./ and ../ paths put behind its folder.

    They stay relative where `path` is (below the current folder), so that the config that a run
    saves means the same in another copy of the working directory.
    """
    try:
        tree: dict[str, Any] = _beside(read_yaml(path), path.parent)
    except RecursionError:
        raise ConfigError(f"{path}: a section contains itself (anchor and alias)") from None
    return tree


def merge(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with `changes` on top: sections are merged, everything else is replaced."""
    merged = dict(tree)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


class _Loader(yaml.SafeLoader):
    """Refuses whole numbers that Python does not print, such as long hexadecimal ones."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        str(value)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _beside(node: Any, folder: Path) -> Any:
    if isinstance(node, dict):
        return {key: _beside(value, folder) for key, value in node.items()}
    if isinstance(node, str) and node.startswith(("./", "../")):
        path = folder / node
        return str(path.resolve() if path.parts[0] == ".." else path)
    return node


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r}: expected section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            if child is not None:
                raise ConfigError(f"override {override!r}: {part} is a value, not a section")
            child = node[part] = {}
        node = child
    node[parts[-1]] = value


def describe(error: Any) -> str:
    """One of pydantic's errors in a line: key, what was expected, what was found."""
    where = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    found = "" if isinstance(error["input"], dict | list) else f" (found {error['input']!r})"
    return f"{where}: {error['msg']}{found}"
