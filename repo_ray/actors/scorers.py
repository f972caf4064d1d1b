"""Thin actors around the three reward sources. All answer `score(prompt, reply) -> Score`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import ray

from repo_ray.actors.batching import DynamicBatcher
from repo_ray.actors.files import Files, unpacked
from repo_ray.actors.judge_budget import RemoteBudget
from repo_ray.actors.line import batched
from repo_ray.actors.logs import log_as_actor
from repo_ray.config import Config, environment
from repo_ray.records import Prompt, Score

Request = tuple[Prompt, str]
#: Four characters are about one token; batches are bounded by memory, so a guess will do.
CHARACTERS_PER_TOKEN = 4


def _tokens(request: Request) -> int:
    prompt, reply = request
    characters = sum(len(m.content) for m in prompt.messages) + len(reply)
    return characters // CHARACTERS_PER_TOKEN + 1


def _batcher(
    config: Config, run: Callable[[Sequence[Request]], Sequence[Score]]
) -> DynamicBatcher[Request, Score]:
    limits = config.reward_model
    return DynamicBatcher(run, _tokens, limits.batch_tokens, limits.max_wait_ms / 1000)


async def _timed(score: Awaitable[Score]) -> Score:
    start = time.monotonic()
    return replace(await score, latency_s=time.monotonic() - start)


@ray.remote
@batched
class RewardModelActor:
    """The preference-trained reward model, with dynamic batching."""

    def __init__(self, config: Config, checkpoint: Files, model_folder: Path) -> None:
        from repo_ray.models.loading import model_on_node
        from repo_ray.rewards.reward_model import RewardModelScorer

        log_as_actor(config.run.name)
        with unpacked(checkpoint) as folder:
            scorer = RewardModelScorer(
                folder,
                config,
                threads=config.reward_model.pool.threads,
                model_folder=model_on_node(config.model.path, model_folder),
            )
        self._batcher = _batcher(config, scorer.score)

    async def ready(self) -> None: ...

    async def ping(self) -> None: ...

    async def score(self, prompt: Prompt, reply: str) -> Score:
        return await _timed(self._batcher.submit((prompt, reply)))


@ray.remote
@batched
class LocalJudgeActor:
    """The embedded judge: the base model with the tuned judge adapter."""

    def __init__(self, config: Config, checkpoint: Files, model_folder: Path) -> None:
        from repo_ray.models.loading import model_on_node
        from repo_ray.rewards.judge.local import LocalJudge
        from repo_ray.rewards.judge.rubric import load_rubric

        log_as_actor(config.run.name)
        with unpacked(checkpoint) as folder:
            judge = LocalJudge(
                folder,
                load_rubric(config.judge.rubric),
                config,
                threads=config.judge.pool.threads,
                model_folder=model_on_node(config.model.path, model_folder),
            )
        self._batcher = _batcher(config, judge.score)

    async def ready(self) -> None: ...

    async def ping(self) -> None: ...

    async def score(self, prompt: Prompt, reply: str) -> Score:
        return await _timed(self._batcher.submit((prompt, reply)))


@ray.remote
@batched
class EndpointJudgeActor:
    """A judge behind an OpenAI-compatible server. The key comes from this node's environment."""

    def __init__(self, config: Config) -> None:
        from repo_ray.rewards.judge.endpoint import EndpointJudge
        from repo_ray.rewards.judge.rubric import load_rubric

        log_as_actor(config.run.name)
        self._judge = EndpointJudge(
            load_rubric(config.judge.rubric),
            config.judge,
            api_key=environment(config.judge.api_key_env) or "",
            budget=RemoteBudget(config) if config.judge.budgeted else None,
        )

    async def ready(self) -> None:
        """Raises when the endpoint does not answer."""
        await self._judge.check()

    async def ping(self) -> None: ...

    async def score(self, prompt: Prompt, reply: str) -> Score:
        return await self._judge.score(prompt, reply)


@ray.remote
@batched
class RulesActor:
    """Programmatic rules, run in a killable child process under a time limit."""

    def __init__(self, config: Config) -> None:
        from repo_ray.rewards.rules.sandbox import RuleRunner

        log_as_actor(config.run.name)
        self._runner = RuleRunner(config.rules.path, config.rules.time_limit_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rules")

    async def ready(self) -> None: ...

    async def ping(self) -> None: ...

    async def score(self, prompt: Prompt, reply: str) -> Score:
        loop = asyncio.get_running_loop()
        return await _timed(loop.run_in_executor(self._thread, self._runner.score, prompt, reply))
