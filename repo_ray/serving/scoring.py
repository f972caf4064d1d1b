"""Scores one reply with every reward source of a run, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path

from repo_ray.config import Config, environment
from repo_ray.records import Prompt, Reward, Score
from repo_ray.rewards.enhancement import combine


def score_reply(
    config: Config, prompt: Prompt, reply: str
) -> tuple[list[Score], Reward | None, list[str]]:
    """Scores of the sources that can be asked, the reward, and what was left out and why.

    A source that is disabled, or has no checkpoint, is left out as in training: R_model is then
    1, E_judge and E_func 0. The reward is None where a score is invalid.
    """
    scores: list[Score] = []
    notes: list[str] = []
    if config.reward_model.enabled and config.reward_model.checkpoint is not None:
        scores.append(_reward_model(config, config.reward_model.checkpoint, prompt, reply))
    else:
        notes.append("reward model left out (disabled or no checkpoint): R_model counts as 1")
    if config.judge.enabled and config.judge.kind == "endpoint":
        scores.append(_endpoint(config, prompt, reply))
    elif config.judge.enabled and config.judge.checkpoint is not None:
        scores.append(_local_judge(config, config.judge.checkpoint, prompt, reply))
    else:
        notes.append("judge left out (disabled or no checkpoint): E_judge counts as 0")
    if config.rules.enabled:
        scores.append(_rules(config, prompt, reply))
    else:
        notes.append("rules left out (disabled): E_func counts as 0")
    values = {score.source: score.value for score in scores}
    r_model = values.get("reward_model", 1.0)
    e_judge, e_func = values.get("judge", 0.0), values.get("rules", 0.0)
    if r_model is None or e_judge is None or e_func is None:
        return scores, None, notes
    return scores, combine(config.enhancement, r_model, e_judge, e_func), notes


def _reward_model(config: Config, checkpoint: Path, prompt: Prompt, reply: str) -> Score:
    from repo_ray.rewards.reward_model import RewardModelScorer

    threads = config.reward_model.pool.threads
    return RewardModelScorer(checkpoint, config, threads).score([(prompt, reply)])[0]


def _local_judge(config: Config, checkpoint: Path, prompt: Prompt, reply: str) -> Score:
    from repo_ray.rewards.judge.local import LocalJudge
    from repo_ray.rewards.judge.rubric import load_rubric

    rubric, threads = load_rubric(config.judge.rubric), config.judge.pool.threads
    return LocalJudge(checkpoint, rubric, config, threads).score([(prompt, reply)])[0]


def _endpoint(config: Config, prompt: Prompt, reply: str) -> Score:
    from repo_ray.rewards.judge.endpoint import EndpointJudge
    from repo_ray.rewards.judge.rubric import load_rubric

    key = environment(config.judge.api_key_env) or ""
    judge = EndpointJudge(load_rubric(config.judge.rubric), config.judge, api_key=key)

    async def ask() -> Score:
        try:
            return await judge.score(prompt, reply)
        finally:
            await judge.close()

    return asyncio.run(ask())


def _rules(config: Config, prompt: Prompt, reply: str) -> Score:
    from repo_ray.rewards.rules.sandbox import RuleRunner

    runner = RuleRunner(config.rules.path, config.rules.time_limit_s)
    try:
        return runner.score(prompt, reply)
    finally:
        runner.close()
