"""The settings of a comparison: which methods, how often, under which budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from repo_ray.comparison.methods import METHODS
from repo_ray.config import ConfigError
from repo_ray.config.base import NonNegative, Positive, Settings
from repo_ray.config.load import describe, read_yaml


class Comparison(Settings):
    """One comparison. Everything but what the methods change is the same for all of them."""

    name: str = Field(
        "compare", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names folder and actors."
    )
    dir: Path = Field(Path("runs"), description="Parent of the folder, as run.dir.")
    config: Path = Field(description="Config of the runs, relative to this file.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Sections merged into that config, for every method."
    )
    methods: tuple[str, ...] = Field(
        ("sft", "dpo", "ppo", "grpo", "repo"),
        description="What is compared, in the order of training.",
    )
    seeds: tuple[NonNegative, ...] = Field(
        (0,), description="Each method is trained once per seed, from the same warm start."
    )
    budget: Positive = Field(
        description="Per method and seed: sampled replies (RL), rows seen (SFT), pairs seen (DPO)."
    )
    budgets: dict[str, Positive] = Field(
        default_factory=dict, description="Another budget for some methods, by name."
    )
    changes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Sections merged for one method, by its name."
    )
    reference: str = Field("repo", description="The method that all differences refer to.")

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        _refuse_unknown(methods)
        if repeated := [m for m, count in Counter(methods).items() if count > 1]:
            raise ValueError(f"named twice: {', '.join(repeated)}")
        if not methods:
            raise ValueError("at least one method is needed")
        return methods

    @field_validator("budgets", "changes")
    @classmethod
    def _of_methods(cls, by_method: dict[str, Any]) -> dict[str, Any]:
        _refuse_unknown(by_method)
        return by_method


def load_comparison(path: Path, changes: Mapping[str, Any]) -> Comparison:
    """Reads the YAML file; `changes` replace its top-level keys. Raises `ConfigError`."""
    tree = read_yaml(path) | dict(changes)
    try:
        comparison = Comparison.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {describe(e)}" for e in error.errors())) from None
    return comparison.model_copy(update={"config": path.parent / comparison.config})


def _refuse_unknown(names: Any) -> None:
    if unknown := [name for name in names if name not in METHODS]:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(METHODS)}")
