"""The controller: one direction, one loop.

prompts -> samples -> scores -> experiences -> update -> adapter -> every engine, verified
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from repo_ray.actors.control import Mailbox
from repo_ray.actors.members import PoolError
from repo_ray.config import Config
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.logs import at_step
from repo_ray.records import Experience, Prompt
from repo_ray.rewards.judge.budget import SPEND_LIMIT, BudgetError
from repo_ray.training.accounting import Ledger, in_words
from repo_ray.training.checkpoints import REWARD, RUN, Checkpoint, save_checkpoint
from repo_ray.training.clock import PhaseClock
from repo_ray.training.collect import SOURCES, Collected, Collector
from repo_ray.training.metrics import MetricsLog
from repo_ray.training.publication import check_versions
from repo_ray.training.schedule import Schedule
from repo_ray.training.system import System
from repo_ray.training.telemetry import Telemetry
from repo_ray.training.trajectories import write_dropped, write_trajectories

log = logging.getLogger(__name__)

#: |R_model| below this leaves judge and rules without effect (REPO multiplies by it).
SMALL_R_MODEL = 0.1


class RunError(RuntimeError):
    """The run stops for a reason that it could not repair; the message says which."""


@dataclass
class Outcome:
    """How training ended. `step` updates were made in all, earlier attempts included."""

    step: int
    finished: bool
    ledger: Ledger
    pushes: int = 0
    push_s: list[float] = field(default_factory=list)


class Controller:
    """Drives one run's training over a started `System`.

    `report(done, total, text)` is told after each sample and step. `after_step(updates)` is
    awaited before the first update (with 0) and after each, when every engine has the new
    adapter; what it returns joins that step's metrics. `after_checkpoint()` is awaited when one
    is on disk.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        system: System,
        schedule: Schedule,
        encode: Callable[[Prompt], list[int]],
        mailbox: Mailbox,
        report: Callable[[int, int, str], None],
        resume: Checkpoint | None,
        after_step: Callable[[int], Awaitable[Mapping[str, Any]]] | None = None,
        after_checkpoint: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config
        self._after_step = after_step
        self._after_checkpoint = after_checkpoint
        self._folder = folder
        self._system = system
        self._schedule = schedule
        self._mailbox = mailbox
        self._report = report
        self._stop = asyncio.Event()
        self._refused: BudgetError | None = None
        self._start = resume.step if resume else 0
        self._ledger = Ledger.from_state(resume.state["ledger"]) if resume else Ledger()
        self._skipped_in_a_row = resume.state["skipped_in_a_row"] if resume else 0
        self._metrics = MetricsLog(folder, self._start)
        self._telemetry = Telemetry(config.run.name)
        self._clock = PhaseClock()
        self._samples_done = 0
        self._collector = Collector(
            config, system.rollout, system.scorers, encode, self._sample_finished
        )
        self._step = self._start
        self._saved = resume.step if resume else None
        at_step(self._step)
        self._stepped = time.monotonic()
        self._push_s: list[float] = []
        self._rewards: list[float] = []

    def request_stop(self) -> None:
        """Ends training after what cannot be interrupted, with a checkpoint (SIGTERM)."""
        self._stop.set()

    async def train(self) -> Outcome:
        """Runs all steps. Raises `RunError`, `PoolError`, `LearnerError` or `PublicationError`."""
        service = asyncio.ensure_future(self._serve_control())
        try:
            return await self._train()
        finally:
            service.cancel()
            self._metrics.close()

    async def _train(self) -> Outcome:
        pending: dict[int, asyncio.Task[Collected]] = {}
        admitted = self._start
        total = self._schedule.steps
        if self._start == 0 and (values := await self._watched(0)):
            self._metrics.step(0, values)
        try:
            for step in range(self._start, total):
                self._step = step
                # Batch k may start once the learner has made k - staleness updates.
                while admitted < min(total, step + self._config.run.staleness + 1):
                    batch = self._schedule.batch(admitted)
                    pending[admitted] = asyncio.ensure_future(
                        self._collector.batch(admitted, batch)
                    )
                    admitted += 1
                self._clock.enter("collect")
                collected = await self._unless_stopped(pending.pop(step))
                if collected is None:
                    break
                await self._update(step, collected)
                if (step + 1) % self._config.run.checkpoint_every == 0 or step + 1 == total:
                    await self._checkpoint(step + 1)
                self._step = step + 1
                at_step(self._step)
                self._stepped = time.monotonic()
                if self._stop.is_set():
                    break
        finally:
            for task in pending.values():
                task.cancel()
            await asyncio.gather(*pending.values(), return_exceptions=True)
        if self._step < total:
            log.info("stopping at step %d", self._step)
            # One that is saved already has the reward of its steps; a new one would have none.
            if self._saved != self._step:
                await self._checkpoint(self._step)
        if self._refused is not None:
            raise RunError(
                f"step {self._step}: the judge can score no further: {self._refused}. A checkpoint "
                "is written: continue with --resume"
                + (" and a larger judge.max_spend" if self._refused.cause == SPEND_LIMIT else "")
            )
        return Outcome(
            self._step, self._step == total, self._ledger, len(self._push_s), self._push_s
        )

    async def _update(self, step: int, collected: Collected) -> None:
        """One learner step, from a complete batch to verified engines."""
        config, batch = self._config, collected.experiences
        self._ledger.add(self._collector.open.pop(step))
        source, share = collected.ledger.most_invalid
        if share > config.run.max_invalid_share:
            raise RunError(
                f"step {step}: {share:.0%} of the {source} scores are invalid "
                f"(run.max_invalid_share is {config.run.max_invalid_share:.0%}): "
                f"{in_words(collected.ledger.invalid)}"
            )
        versions = {v for e in batch for v in e.rollout.versions}
        check_versions(versions, step, config.run.staleness)
        began = time.monotonic()
        self._clock.enter("update")
        if batch:
            result = await self._system.learner.update(batch)
        else:
            causes = in_words(collected.ledger.dropped)
            result = UpdateResult({}, [], f"empty batch: every prompt was dropped ({causes})")
        skipped = result.skipped
        write_trajectories(self._folder / "trajectories", step, batch, result)
        write_dropped(self._folder / "trajectories", step, collected.dropped)
        self._count_skipped(step, skipped)
        learned = time.monotonic()
        self._clock.enter("push")
        blob = await self._system.learner.adapter_blob("policy")
        reports = await self._system.publisher.push(self._system.rollout, blob, step + 1)
        pushed = time.monotonic()
        self._push_s.append(pushed - learned)
        watched = await self._watched(step + 1)
        self._metrics.step(
            step + 1,
            {
                **batch_metrics(batch, collected.ledger.discarded_tokens),
                **result.metrics,
                "skipped": skipped,
                **({"rollout/lag": step - min(versions)} if versions else {}),
                "rollout/tokens": collected.tokens,
                "rollout/tokens_per_s": collected.tokens / collected.seconds,
                "time/collect_s": collected.seconds,
                "time/update_s": learned - began,
                "time/push_s": pushed - learned,
                # What overlaps counts once: less than the sum of the above with staleness.
                "time/step_s": pushed - self._stepped,
                "publication": [asdict(r) for r in reports],
                "pools": {k: asdict(p.stats()) for k, p in self._system.pools.items()},
                "ledger": self._ledger.state(),
                **watched,
            },
        )
        for experience in batch:
            for score in experience.scores:
                self._telemetry.score(score)
        self._samples_done = 0
        reward = sum(e.reward.total for e in batch) / max(1, len(batch))
        self._rewards.append(reward)
        self._report(step + 1, self._schedule.steps, f"reward {reward:+.2f}")

    async def _watched(self, updates: int) -> Mapping[str, Any]:
        self._clock.enter("check")
        return await self._after_step(updates) if self._after_step is not None else {}

    def _count_skipped(self, step: int, skipped: str) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if not skipped:
            return
        log.warning("step %d: update skipped: %s", step, skipped)
        if self._skipped_in_a_row >= self._config.run.max_skipped_updates:
            raise RunError(
                f"{self._skipped_in_a_row} updates in a row were skipped, the last because of: "
                f"{skipped}. The batches are in {self._folder / 'trajectories'}"
            )

    async def _checkpoint(self, step: int) -> None:
        self._clock.enter("checkpoint")
        rewards, self._rewards = self._rewards, []
        state = {
            RUN: self._config.run.name,
            "ledger": self._ledger.state(),
            "skipped_in_a_row": self._skipped_in_a_row,
            REWARD: sum(rewards) / len(rewards) if rewards else None,
        }
        loop = asyncio.get_running_loop()

        def write(folder: Path) -> None:
            saving = asyncio.run_coroutine_threadsafe(self._system.learner.save(folder), loop)
            saving.result()

        await asyncio.to_thread(
            save_checkpoint,
            self._folder / "checkpoints",
            step,
            state,
            write,
            self._config.run.keep_checkpoints,
        )
        self._saved = step
        if self._after_checkpoint is not None:
            await self._after_checkpoint()

    async def _unless_stopped(self, work: asyncio.Task[Collected]) -> Collected | None:
        """The batch, or None if a stop is requested first or the judge can score no further."""
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                try:
                    return _unwrap(work)
                except BudgetError as error:
                    self._refused = error
                    return None
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return None
        finally:
            stopped.cancel()

    def _sample_finished(self) -> None:
        self._samples_done += 1
        text = f"sample {self._samples_done} of {self._config.run.batch_size}"
        self._report(self._step, self._schedule.steps, text)

    def status(self) -> dict[str, Any]:
        """How the run stands, for `repo-ray status` and Prometheus.

        Besides what finished steps consumed, `ledger` counts what the open batches have so far.
        """
        ledger = Ledger()
        for part in (self._ledger, *self._collector.open.values()):
            ledger.add(part)
        publisher = self._system.publisher
        learner = {"learner": publisher.current.version} if publisher.current else {}
        return {
            "run": self._config.run.name,
            "folder": str(self._folder),
            "time": time.time(),
            "step": self._step,
            "steps": self._schedule.steps,
            "step_age_s": time.monotonic() - self._stepped,
            "phase": self._clock.phase,
            "phases": self._clock.seconds(),
            "skipped_in_a_row": self._skipped_in_a_row,
            "versions": {**learner, **publisher.verified},
            "ledger": ledger.state(),
            "pools": {k: asdict(p.stats()) for k, p in self._system.pools.items()},
            "metrics": dict(self._metrics.latest),
        }

    async def _serve_control(self) -> None:
        """Carries out scaling requests and reports the status, until cancelled."""
        while True:
            request = await self._mailbox.next_request(1.0)
            if request is not None:
                kind, replicas = request
                if kind in self._system.pools:
                    self._system.pools[kind].scale(replicas)
                else:
                    log.warning("no pool named %r to scale", kind)
            status = self.status()
            self._telemetry.report(status)
            await self._mailbox.report(status)


def _unwrap(work: asyncio.Task[Collected]) -> Collected:
    """The task's result; of a group of errors the first one that has a message for people."""
    try:
        return work.result()
    except BaseExceptionGroup as group:
        raise next(
            (e for e in group.exceptions if isinstance(e, PoolError | RunError | BudgetError)),
            group.exceptions[0],
        ) from None


def batch_metrics(
    batch: Sequence[Experience], discarded_tokens: Sequence[float] = ()
) -> dict[str, Any]:
    """Reward by source, length and truncation of one batch (means over samples).

    `discarded_tokens` (`Ledger`): with a mean far over `reply/tokens`, a time limit cuts off long
    replies. Absent where nothing was discarded.
    """
    lost = {"reply/discarded_tokens": fmean(discarded_tokens)} if discarded_tokens else {}
    if not batch:
        return {"batch/size": 0, **lost}

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    values: dict[str, Any] = {
        "batch/size": len(batch),
        **lost,
        "reward/total": mean([e.reward.total for e in batch]),
        "reward/r_model": mean([e.reward.r_model for e in batch]),
        "reward/e_judge": mean([e.reward.e_judge for e in batch]),
        "reward/e_func": mean([e.reward.e_func for e in batch]),
        "reward/e_enh": mean([e.reward.e_enh for e in batch]),
        "reward/multiplier": mean([e.reward.multiplier for e in batch]),
        "reward/small_r_model_share": mean(
            [float(abs(e.reward.r_model) < SMALL_R_MODEL) for e in batch]
        ),
        # Of a dialogue's tokens only the agent's count, over its replies.
        "reply/tokens": mean([sum(e.rollout.loss_mask) / max(1, len(e.turns)) for e in batch]),
        "reply/truncated_share": mean([float(e.rollout.finish_reason == "length") for e in batch]),
    }
    for source in SOURCES:
        scores = [s for e in batch for s in e.scores if s.source == source]
        if not scores:
            continue
        values[f"latency/{source}_s"] = mean([s.latency_s for s in scores])
        details = Counter(k for s in scores for k, d in s.detail.items() if d.points)
        if source == "rules":
            values["rules/hits_per_reply"] = sum(details.values()) / len(batch)
            values["rules/hits"] = dict(details)
        elif source == "judge":
            names = {k for s in scores for k in s.detail}
            values["judge/points"] = {
                k: mean([s.detail[k].points for s in scores if k in s.detail])
                for k in sorted(names)
            }
    return values
