"""The run's judge budget as one Ray actor, and how driver and judges reach it.

A request waits for its turn in the judge actor, right before it is sent: only there is the moment
of sending known, retries included, so the limits hold whatever the pool's queue does. The score's
own deadline moves with the waiting, and `training.system` adds `LONGEST_WAIT_S` to the pool's limit
on a call; a judge that dies or hangs while it waits is found by the pool's pings. Calls that wait
keep their slot, so the pool's queue and its waiting time show that the limits hold work back.

The actor is never restarted: what it would have forgotten was spent. Without it no score can be
had, and the run stops with a checkpoint (`training.collect`); `--resume` goes on from what was saved.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from repo_ray.actors.control import namespace
from repo_ray.actors.members import PoolError
from repo_ray.config import Config
from repo_ray.config.rewards import JudgeConfig
from repo_ray.records import Score
from repo_ray.rewards.judge.budget import BUDGET_LOST, SPEND_LIMIT, BudgetError, JudgeBudget, Totals
from repo_ray.rewards.judge.cache import append_scores, read_scores
from repo_ray.rewards.judge.spending import Need, Usage

log = logging.getLogger(__name__)

NAME = "judge-budget"
#: Longest wait for a turn: not to be met, but nothing waits for ever.
LONGEST_WAIT_S = 86_400.0
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 30.0
SAVE_EVERY_S = 5.0
#: Far more than judges can have calls waiting: those that report the end of one must get in.
CONCURRENCY = 10_000


@ray.remote
class JudgeBudgetActor:
    """A `JudgeBudget` for judges in other processes."""

    def __init__(
        self, config: JudgeConfig, totals: Totals, scores: Sequence[tuple[str, Score]]
    ) -> None:
        self._budget = JudgeBudget(config, totals, scores)

    async def cached(self, key: str) -> Score | None:
        return await self._budget.cached(key)

    async def admit(self, need: Need, queue: bool) -> int | str:
        """A permit, or why there is none: Ray would wrap an exception."""
        try:
            return await self._budget.admit(need, queue)
        except BudgetError as error:
            return error.message

    async def settle(self, permit: int, used: Usage | None) -> None:
        await self._budget.settle(permit, used)

    async def keep(self, key: str, score: Score) -> None:
        await self._budget.keep(key, score)

    async def news(self) -> tuple[Totals, list[tuple[str, Score]]]:
        """The totals, and the scores kept since the last call."""
        return self._budget.totals(), self._budget.take_new()


class RemoteBudget:
    """The run's budget as a judge actor sees it: `rewards.judge.budget.Budget`."""

    def __init__(self, config: Config) -> None:
        self._caches = config.judge.cache
        self._actor = ray.get_actor(NAME, namespace=namespace(config.run.name))

    async def cached(self, key: str) -> Score | None:
        found: Score | None = await self._ask("cached", key) if self._caches else None
        return found

    async def admit(self, need: Need, queue: bool = True) -> int:
        answer = await self._ask("admit", need, queue, limit_s=LONGEST_WAIT_S)
        if isinstance(answer, str):
            raise BudgetError(SPEND_LIMIT, answer)
        return int(answer)

    async def settle(self, permit: int, used: Usage | None) -> None:
        await self._ask("settle", permit, used)

    async def keep(self, key: str, score: Score) -> None:
        if self._caches:
            await self._ask("keep", key, score)

    async def _ask(self, method: str, *arguments: Any, limit_s: float = ANSWER_TIMEOUT_S) -> Any:
        try:
            return await asyncio.wait_for(getattr(self._actor, method).remote(*arguments), limit_s)
        except (RayError, TimeoutError) as error:
            # A RayActorError that left the judge would look like the judge's own death.
            reason = f"the actor {NAME} does not answer {method}: {type(error).__name__}"
            raise BudgetError(BUDGET_LOST, reason) from None


class BudgetKeeper:
    """Starts the run's budget, and keeps in the run folder what it has counted and remembered."""

    def __init__(self, config: Config, root: Path) -> None:
        """`root` is the run folder: `judge_budget.json` and `judge_cache.jsonl` are there."""
        self._config = config
        self._totals_file = root / "judge_budget.json"
        self._cache_file = root / "judge_cache.jsonl"
        self.totals = Totals()
        self._actor: ActorHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Returns when judges can find the budget. Raises `PoolError`."""
        if self._totals_file.exists():
            self.totals = Totals(**json.loads(self._totals_file.read_text(encoding="utf-8")))
        judge = self._config.judge
        scores = await asyncio.to_thread(read_scores, self._cache_file) if judge.cache else []
        # On the driver's node: where that is lost, so is the run.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor = JudgeBudgetActor.options(  # type: ignore[attr-defined]
            name=NAME,
            namespace=namespace(self._config.run.name),
            num_cpus=0,
            max_concurrency=CONCURRENCY,
            scheduling_strategy=here,
        ).remote(judge, self.totals, scores)
        try:
            await self._save(START_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            raise PoolError(f"the actor {NAME} could not start: {type(error).__name__}") from None
        self._saving = asyncio.ensure_future(self._save_regularly())

    async def figures(self) -> dict[str, float]:
        """The totals as metrics."""
        await self._save_or_warn()
        return {f"judge/{name}": float(value) for name, value in asdict(self.totals).items()}

    async def stop(self) -> None:
        """Saves once more and ends the actor; the judges must have ended before."""
        if self._saving is not None:
            async with self._lock:  # what a save has taken from the actor, it writes
                self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
            await self._save_or_warn()
        if self._actor is not None:
            ray.kill(self._actor)

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await self._save_or_warn()

    async def _save_or_warn(self) -> None:
        try:
            await self._save(ANSWER_TIMEOUT_S)
        except (RayError, TimeoutError, OSError) as error:
            log.warning("what the judge has spent is not saved: %s", type(error).__name__)

    async def _save(self, limit_s: float) -> None:
        assert self._actor is not None
        async with self._lock:
            news: Any = self._actor.news.remote()
            self.totals, scores = await asyncio.wait_for(news, limit_s)
            await asyncio.to_thread(self._write, scores)

    def _write(self, scores: Sequence[tuple[str, Score]]) -> None:
        partial = self._totals_file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self.totals), indent=1), encoding="utf-8")
        partial.replace(self._totals_file)
        append_scores(self._cache_file, scores)
