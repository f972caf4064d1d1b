"""What can be refused before any actor starts, is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from repo_ray.config import Config, ConfigError, environment
from repo_ray.data.reader import (
    read_dialogues,
    read_preferences,
    read_prompts,
    read_sft,
    read_verdicts,
)
from repo_ray.rewards.judge.endpoint import EndpointJudge
from repo_ray.rewards.judge.rubric import load_rubric
from repo_ray.rewards.rules.rule_set import load_rules

READERS: dict[str, Callable[[Path], Sequence[object]]] = {
    "prompts": read_prompts,
    "preferences": read_preferences,
    "sft": read_sft,
    "verdicts": read_verdicts,
    "online": read_dialogues,
    "badcases": read_dialogues,
}


def check_inputs(config: Config) -> None:
    """Reads everything that the config names, and asks the judge endpoint once.

    Raises `ConfigError`, `DataError` or `JudgeUnavailableError`, each naming file and row or key.
    """
    for key, read in READERS.items():
        path: Path | None = getattr(config.data, key)
        if path is not None:
            read(path)
    if config.rules.enabled:
        load_rules(config.rules.path)
    if config.judge.enabled:
        rubric = load_rubric(config.judge.rubric)
        if config.judge.kind == "endpoint":
            key = environment(config.judge.api_key_env) or ""
            asyncio.run(EndpointJudge(rubric, config.judge, api_key=key).check())
    for key, folder in {
        "reward_model.checkpoint": config.reward_model.checkpoint,
        "judge.checkpoint": config.judge.checkpoint,
    }.items():
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{key}: {folder} is not a folder")
