"""From the settings of a comparison to the config of every run in it. Nothing is started here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_ray.actors.trainer import Stage
from repo_ray.comparison.method import Method
from repo_ray.comparison.methods import METHODS
from repo_ray.comparison.settings import Comparison
from repo_ray.config import Config, ConfigError
from repo_ray.config.load import merge, read_tree, validate

#: The run that holds what all methods share: data, warm start, reward model, judge.
SHARED = "shared"


@dataclass(frozen=True)
class Entry:
    """One training: a method with a seed, and its complete config."""

    method: Method
    seed: int
    budget: int
    config: Config

    @property
    def name(self) -> str:
        return self.config.run.name


def shared_config(comparison: Comparison) -> Config:
    """The config of what all methods share; its run also holds the evaluation of all columns.

    Raises `ConfigError`.
    """
    tree = merge(read_tree(comparison.config), comparison.overrides)
    run = {
        "name": f"{comparison.name}-{SHARED}",
        "dir": str(comparison.dir / comparison.name),
    }
    config = validate(merge(tree, {"run": run}), str(comparison.config))
    if config.run.storage is not None:
        raise ConfigError(f"{comparison.config}: run.storage: comparisons are kept locally only")
    if config.warm_start is None:
        raise ConfigError(f"{comparison.config}: warm_start: every method needs one to start from")
    return config


def entries(
    comparison: Comparison,
    shared: Config,
    paths: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, int],
) -> list[Entry]:
    """Every training in order: all methods with the first seed, then with the next.

    `paths` are config sections that point at what is shared (`data`, `warm_start`,
    `reward_model`, `judge`); `rows` counts the training rows of `sft` and `dpo`. Raises
    `ConfigError` for a config that a method makes invalid and for a budget that is no whole
    number of steps.
    """
    base = merge(shared.model_dump(mode="json"), paths)
    found = []
    for seed in comparison.seeds:
        for name in comparison.methods:
            method = METHODS[name]
            budget = comparison.budgets.get(name, comparison.budget)
            tree = merge(merge(base, method.changes), comparison.changes.get(name, {}))
            batch = tree["run"]["batch_size"]
            if method.trainer == "rl" and budget % batch:
                raise ConfigError(
                    f"{name}: a budget of {budget} replies is no multiple of the batch size {batch}"
                )
            run = {
                "name": f"{comparison.name}-{name}-seed{seed}",
                "seed": seed,
                "steps": max(1, budget // batch),
            }
            tree = merge(tree, {"run": run, "evaluation": {"enabled": False}})
            if method.trainer != "rl":
                tree = merge(tree, {method.trainer: _passes(budget, rows[method.trainer])})
            config = validate(tree, f"{comparison.config}, {name}")
            found.append(Entry(method, seed, budget, config))
    return found


def _passes(budget: int, rows: int) -> dict[str, int]:
    """`budget` rows in all, with as many passes over the data as that takes."""
    epochs = math.ceil(budget / rows)
    return {"epochs": epochs, "max_rows": round(budget / epochs)}


def pointers(data: Mapping[str, Path], models: Mapping[Stage, Path | None]) -> dict[str, Any]:
    """The `paths` of `entries`: where the data and the trained models of the shared run are."""
    sections: dict[str, Any] = {"data": {k: str(path) for k, path in data.items()}}
    for name, folder in models.items():
        if folder is not None:
            sections[name] = {"checkpoint": str(folder)}
    return sections
