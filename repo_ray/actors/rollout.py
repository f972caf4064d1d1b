"""The Ray actor around one rollout engine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
import ray

from repo_ray.actors.line import batched
from repo_ray.actors.logs import log_as_actor
from repo_ray.config.settings import Config
from repo_ray.models.adapters import adapter_digest
from repo_ray.models.loading import model_on_node
from repo_ray.records import Rollout
from repo_ray.rollouts.engine import EngineDiedError, RolloutEngine
from repo_ray.rollouts.publication import EngineState, PushReport

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Less than what the pool waits for a ping (`members.PING_TIMEOUT_S`), more than a step takes.
ANSWER_TIMEOUT_S = 20.0


@ray.remote
@batched
class RolloutActor:
    """One engine; all methods are asynchronous and share one event loop, as AsyncLLM needs.

    `adapter` (a blob; pass its object reference) and `version` are what a replacement starts
    with. Start it with `engine.engine_environment` as its `env_vars`. When the engine core
    dies the actor ends its own process: every call in flight then fails with Ray's actor
    error, on which the pool replaces the actor and hands its calls to others. It does the same
    when a call was given up and the core then answers nothing any more.
    """

    def __init__(
        self,
        config: Config,
        model_folder: Path,
        name: str,
        adapter: bytes | None = None,
        version: int = 0,
    ) -> None:
        log_as_actor(config.run.name)
        folder = model_on_node(config.model.path, model_folder)
        self._engine = RolloutEngine(config, folder, name)
        self._initial = None if adapter is None else (adapter, version)
        self._start_lock = asyncio.Lock()
        self._started = False
        self._doubtful = False  # a call was given up, and nothing heard of the core since

    async def ready(self) -> EngineState:
        """Starts the engine (once) and loads the adapter given at construction."""
        async with self._start_lock:
            if not self._started:
                await self._engine.start()
                if self._initial is not None:
                    blob, version = self._initial
                    await self._engine.push(blob, version, adapter_digest(blob))
                    self._initial = None
                self._started = True
        return self._engine.state()

    async def ping(self) -> None:
        """Returns if the engine core lives; otherwise the actor ends.

        A core may be frozen or hang, which cannot be seen from here. So after a call that its
        caller gave up (a time-out), the core has to answer.
        """
        await self._or_die(self._check())

    async def sample(
        self,
        sample_id: str,
        prompt_id: str,
        attempt: int,
        prompt_token_ids: Sequence[int],
        seed: int,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Rollout:
        """See `RolloutEngine.sample`."""
        return await self._or_die(
            self._engine.sample(
                sample_id, prompt_id, attempt, prompt_token_ids, seed, max_new_tokens, temperature
            )
        )

    async def push(self, blob: bytes, version: int, digest: str) -> PushReport:
        """See `RolloutEngine.push`; `blob` is passed as an object reference."""
        return await self._or_die(self._engine.push(blob, version, digest))

    async def probe(
        self, samples: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        """See `RolloutEngine.probe`."""
        return await self._or_die(self._engine.probe(samples))

    async def state(self) -> EngineState:
        """See `RolloutEngine.state`."""
        return self._engine.state()

    async def shutdown(self) -> None:
        """Ends the engine core; the actor itself stays until it is killed."""
        await self._engine.shutdown()

    async def _check(self) -> None:
        self._engine.check()
        if self._doubtful:
            await self._engine.answer(ANSWER_TIMEOUT_S)
            self._doubtful = False

    async def _or_die(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except asyncio.CancelledError:
            self._doubtful = True
            raise
        except EngineDiedError as error:
            log.critical("%s; ending the actor so that the pool replaces it", error)
            # A frozen core cannot notice that its owner ends, and would keep its memory.
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            os._exit(1)
