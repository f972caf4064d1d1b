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
from repo_ray.models.loading import BUILT_IN, resolve_model
from repo_ray.pipeline.data import encoder, refuse_long
from repo_ray.pipeline.inputs import local_inputs
from repo_ray.pipeline.run_folder import BLOB, RunFolder, run_root
from repo_ray.records import Prompt
from repo_ray.rewards.judge.endpoint import EndpointJudge
from repo_ray.rewards.judge.rubric import load_rubric
from repo_ray.rewards.rules.facts import facts
from repo_ray.rewards.rules.sandbox import RuleRunner

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

    Raises `ConfigError`, `DataError`, `ModelNotFoundError` or `JudgeUnavailableError`, each naming file and row or key.
    """
    given = local_inputs(config, RunFolder(run_root(config)))
    for key, path in given.items():
        READERS[key](path)
    _refuse_mixture(config)
    if "prompts" in given:
        _refuse_other_task(config, read_prompts(given["prompts"]))
    # A model of the hub is downloaded when the run has begun, and prompts are measured then.
    at_hand = config.model.path == BUILT_IN or Path(config.model.path).expanduser().is_dir()
    if given and at_hand:
        refuse_long(config, given, encoder(config, resolve_model(config.model.path)))
    if config.rules.enabled:
        RuleRunner(config.rules.path).close()
    if config.judge.enabled:
        rubric = load_rubric(config.judge.rubric)
        if config.judge.kind == "endpoint":
            key = environment(config.judge.api_key_env) or ""
            asyncio.run(EndpointJudge(rubric, config.judge, api_key=key).check())
    start = config.warm_start.checkpoint if config.warm_start else None
    for key, folder, file in (
        ("reward_model.checkpoint", config.reward_model.checkpoint, "reward_model.json"),
        ("judge.checkpoint", config.judge.checkpoint, "judge.json"),
        ("warm_start.checkpoint", start, BLOB),
    ):
        if folder is not None and not (folder / file).is_file():
            raise ConfigError(f"{key}: {folder} holds no {file}")


def _refuse_mixture(config: Config) -> None:
    """Own prompts go with own data: nothing of the built-in task fills the gaps.

    Raises `ConfigError` with what to give or switch off.
    """
    data = config.data
    if data.prompts is None:
        return
    trains_reward_model = config.reward_model.enabled and config.reward_model.checkpoint is None
    judge = config.judge
    tunes_judge = judge.enabled and judge.kind == "local" and judge.checkpoint is None
    missing = [
        f"{key} is missing: {advice}"
        for key, absent, advice in (
            (
                "data.preferences",
                trains_reward_model and data.preferences is None,
                "give it, or reward_model.checkpoint, or set reward_model.enabled to false",
            ),
            (
                "data.verdicts",
                tunes_judge and data.verdicts is None,
                "give it, or judge.checkpoint, or set judge.kind to endpoint or "
                "judge.enabled to false",
            ),
            (
                "data.sft",
                config.warm_start is not None
                and config.warm_start.checkpoint is None
                and data.sft is None,
                "give it, or warm_start.checkpoint, or set warm_start to null",
            ),
        )
        if absent
    ]
    if missing:
        raise ConfigError("data.prompts is given, so no data is built:\n" + "\n".join(missing))


def _refuse_other_task(config: Config, prompts: Sequence[Prompt]) -> None:
    """What knows the built-in task alone is no part of another one's run.

    Prompts with the facts of a negotiation (`rewards.rules.facts`) are the built-in task, whoever
    made them. Raises `ConfigError`.
    """
    if any(facts(prompt) is not None for prompt in prompts):
        return
    wrong = [
        f"{key} {advice}"
        for key, unfit, advice in (
            (
                "rules.path",
                config.rules.enabled and config.rules.path is None,
                "is missing: give your rules, or set rules.enabled to false",
            ),
            (
                "judge.rubric",
                config.judge.enabled and config.judge.rubric is None,
                "is missing: give your rubric, or set judge.enabled to false",
            ),
            (
                "dialogue",
                config.dialogue is not None,
                "is set: the simulated hotelier speaks there",
            ),
            (
                "evaluation.negotiations",
                config.evaluation.negotiations > 0,
                "is set: the simulated hotelier speaks there",
            ),
        )
        if unfit
    ]
    if wrong:
        raise ConfigError(
            f"{config.data.prompts} is another task than hotel price negotiation:\n"
            + "\n".join(wrong)
        )
