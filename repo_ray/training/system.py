"""Everything that runs beside the controller: which actors there are and how they come up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from repo_ray.actors.control import namespace
from repo_ray.actors.environment import thread_environment
from repo_ray.actors.files import read_files
from repo_ray.actors.judge_budget import LONGEST_WAIT_S, BudgetKeeper
from repo_ray.actors.learner import LearnerGroup
from repo_ray.actors.pool import ActorPool
from repo_ray.actors.rollout import RolloutActor
from repo_ray.actors.scorers import (
    EndpointJudgeActor,
    LocalJudgeActor,
    RewardModelActor,
    RulesActor,
)
from repo_ray.config import Config
from repo_ray.config.pool import PoolConfig
from repo_ray.records import Source
from repo_ray.rollouts.engine import engine_environment
from repo_ray.training.publication import Publisher


@dataclass(frozen=True)
class Folders:
    """What the actors load. Null where the source is disabled or not local."""

    model: Path
    reward_model: Path | None
    judge: Path | None


class System:
    """All pools, the learner, the publisher and the judge's budget of one run.

    `root` is the run folder; the budget is kept there.
    """

    def __init__(self, config: Config, folders: Folders, root: Path) -> None:
        self.config = config
        self.folders = folders
        judge = config.judge
        self.budget = BudgetKeeper(config, root) if judge.enabled and judge.budgeted else None
        self.publisher = Publisher()
        self.learner = LearnerGroup(config)
        self.rollout = rollout_pool(config, folders.model, self.publisher)
        self.scorers = self._scorer_pools()

    @property
    def pools(self) -> Mapping[str, ActorPool]:
        return {"rollout": self.rollout, **{pool.kind: pool for pool in self.scorers.values()}}

    async def start(
        self, policy: bytes | None, report: Callable[[str], None], checkpoint: Path | None
    ) -> None:
        """Brings everything up side by side. For `policy` and `checkpoint` see `start_learner`."""
        await self.learner.reserve()
        await asyncio.gather(
            self.start_pools(report), self.start_learner(policy, report, checkpoint)
        )

    async def start_learner(
        self, policy: bytes | None, report: Callable[[str], None], checkpoint: Path | None
    ) -> None:
        """`policy` is the warm start's adapter blob; with `checkpoint`, the learner continues from
        there instead."""
        await self.learner.build(self.folders.model, policy)
        if checkpoint is not None:
            await self.learner.load(checkpoint)
        report("learner is ready")

    async def start_pools(self, report: Callable[[str], None]) -> None:
        """Everything but the learner: enough to sample and to score."""
        await asyncio.gather(self.start_engines(report), self.start_scorers(report))

    async def start_engines(self, report: Callable[[str], None]) -> None:
        await self.rollout.start()
        report("rollout is ready")

    async def start_scorers(self, report: Callable[[str], None]) -> None:
        if self.budget is not None:
            await self.budget.start()  # judges look for it when they start

        async def start(pool: ActorPool) -> None:
            await pool.start()
            report(f"{pool.kind} is ready")

        await asyncio.gather(*map(start, self.scorers.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(pool.stop() for pool in self.pools.values()))
        if self.budget is not None:
            await self.budget.stop()
        self.learner.stop()

    def _scorer_pools(self) -> dict[Source, ActorPool]:
        config, folders = self.config, self.folders

        def shipped(folder: Path | None) -> ray.ObjectRef:
            assert folder is not None  # what is local has a checkpoint
            return ray.put(read_files(folder))

        pools: dict[Source, ActorPool] = {}
        if config.reward_model.enabled:
            pools["reward_model"] = self._pool(
                "reward_model",
                config.reward_model.pool,
                RewardModelActor,
                shipped(folders.reward_model),
                folders.model,
            )
        if config.judge.enabled and config.judge.kind == "local":
            pools["judge"] = self._pool(
                "judge",
                config.judge.pool,
                LocalJudgeActor,
                shipped(folders.judge),
                folders.model,
            )
        elif config.judge.enabled:
            pool = config.judge.pool
            if config.judge.limited:  # a judge waits for its turn inside the call
                pool = pool.model_copy(update={"timeout_s": pool.timeout_s + LONGEST_WAIT_S})
            pools["judge"] = self._pool("judge", pool, EndpointJudgeActor)
        if config.rules.enabled:
            pools["rules"] = self._pool("rules", config.rules.pool, RulesActor)
        return pools

    def _pool(self, kind: str, pool: PoolConfig, actor: Any, *arguments: Any) -> ActorPool:
        return ActorPool(
            kind,
            namespace(self.config.run.name),
            pool,
            lambda name, options: actor.options(**options).remote(self.config, *arguments),
            env_vars=thread_environment(pool.threads),
        )


def rollout_pool(config: Config, model: Path, publisher: Publisher) -> ActorPool:
    """The engines, each of which starts with what `publisher` published last."""

    def spawn(name: str, options: dict[str, Any]) -> ActorHandle:
        now = publisher.current
        adapter = (now.blob, now.version) if now else (None, 0)
        return RolloutActor.options(**options).remote(  # type: ignore[attr-defined]
            config, model, name, *adapter
        )

    pool = config.rollout.pool
    # A lone engine of a synchronous run has the cores nearly to itself while it samples: scorers
    # that work beside it are short (1.3 times the step's samples per second, two cores).
    alone = config.run.staleness == 0 and pool.replicas == 1 and pool.autoscale is None
    return ActorPool(
        "rollout",
        namespace(config.run.name),
        pool,
        spawn,
        env_vars=thread_environment(pool.threads, alone) | engine_environment(config),
        on_ready=lambda member: publisher.bring_up_to_date(member, pool.timeout_s),
    )
