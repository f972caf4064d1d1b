"""The phases of a run, in order: data, model, warm start, reward model, judge, REPO, evaluation."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repo_ray.actors.control import Mailbox
from repo_ray.config import Config, ConfigError
from repo_ray.data.reader import read_hidden, read_prompts
from repo_ray.evaluation.evaluate import gold_curve
from repo_ray.evaluation.report import ReportData, write_report
from repo_ray.logs import CONTEXT
from repo_ray.models.adapters import save_adapter, zero_adapter
from repo_ray.models.loading import resolve_model
from repo_ray.pipeline.canary import start_checked
from repo_ray.pipeline.data import Encode, encoder, long_prompts, prepare_data, refuse_long
from repo_ray.pipeline.evaluation import evaluate_columns, evaluation_sets
from repo_ray.pipeline.mirroring import Uploads
from repo_ray.pipeline.monitor import read_checks, start_monitor
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import BLOB, RunFolder, write_json
from repo_ray.pipeline.signals import Stopped, stop_requests
from repo_ray.pipeline.stages import run_stages
from repo_ray.pipeline.summary import MemoryWatch, summarise
from repo_ray.rewards.judge.consistency import judge_identity
from repo_ray.rewards.judge.rubric import load_rubric
from repo_ray.rollouts.publication import EngineState
from repo_ray.training.checkpoints import latest_checkpoint
from repo_ray.training.dialogues import Episodes
from repo_ray.training.loop import Controller, Outcome
from repo_ray.training.metrics import read_metrics
from repo_ray.training.schedule import Schedule
from repo_ray.training.system import Folders, System
from repo_ray.training.trajectories import read_trajectories

#: Columns of the trajectories that the report is made from.
REPORTED = (
    *("step", "prompt_id", "messages", "context", "reply", "finish_reason"),
    *("r_model", "e_judge", "e_func", "e_enh", "reward", "scores"),
)


@dataclass
class Pipeline:
    """One run. `main` returns when the report is written."""

    config: Config
    folder: RunFolder
    display: Display
    uploads: Uploads = field(default_factory=lambda: Uploads(None))

    async def main(self) -> Path:
        """Runs every phase that is not done yet; returns the report's path.

        Raises `Stopped`, and every error of the phases with a message for people.
        """
        CONTEXT.run, CONTEXT.role = self.config.run.name, "driver"
        self._task = asyncio.current_task()
        self._controller: Controller | None = None
        self._canary: dict[str, Any] = {}
        mailbox = Mailbox(self.config.run.name, self.config.run.silence_s)
        beating = asyncio.ensure_future(mailbox.keep_beating())
        try:
            with stop_requests(self._request_stop), MemoryWatch() as memory:
                return await self._phases(mailbox, memory)
        except asyncio.CancelledError:
            raise Stopped from None
        finally:
            beating.cancel()
            mailbox.close()

    def _request_stop(self) -> None:
        self.display.line("stop requested: finishing what cannot be interrupted")
        if self._controller is not None:
            self._controller.request_stop()
        elif self._task is not None:
            self._task.cancel()

    async def _phases(self, mailbox: Mailbox, memory: MemoryWatch) -> Path:
        config = self.config
        data = await prepare_data(config, self.folder, self.display)
        with self.display.phase("model", f"preparing {config.model.path}"):
            model = await asyncio.to_thread(resolve_model, config.model.path)
        self.display.done(str(model))
        encode = encoder(config, model)
        await asyncio.to_thread(refuse_long, config, data, encode)
        prompts = read_prompts(data["prompts"], split="train")
        if config.dialogue is not None:
            prompts = Episodes(config.dialogue, config.run.seed).openings(len(prompts))
            if faults := long_prompts(config, prompts, encode):
                raise ConfigError(f"dialogue: the opening of an episode is too long: {faults[0]}")
        schedule = Schedule.of(prompts, config.run, config.algorithm.group_size)

        made = await run_stages(config, self.folder, model, data, self.display)
        await self.uploads.start()
        warm_start = made["warm_start"]
        folders = Folders(model, made["reward_model"], made["judge"])
        start = (warm_start / BLOB).read_bytes() if warm_start else None

        system = System(config, folders, self.folder.root)
        try:
            outcome = await self._train(system, start, schedule, encode, mailbox, data["prompts"])
            rows: dict[str, list[dict[str, Any]]] = {}
            if config.evaluation.enabled:
                rows = await self._evaluate(system, start, encode, data, outcome.step)
            engines = list((await system.rollout.broadcast("state")).values())
        finally:
            await system.stop()
        return self._report(outcome, rows, engines, system, data, memory)

    async def _evaluate(
        self,
        system: System,
        start: bytes | None,
        encode: Encode,
        data: dict[str, Path],
        version: int,
    ) -> dict[str, list[dict[str, Any]]]:
        """Rows of every column: the base, the warm start if there is one, and what was trained."""
        trained = (self.folder.policy / BLOB).read_bytes()
        columns = {"base": zero_adapter(trained)}
        if start is not None:
            columns["warm_start"] = start
        columns["repo"] = trained
        with self.display.phase("evaluation", "replies of every column"):
            rows = await evaluate_columns(
                self.config,
                self.folder,
                system,
                encode,
                evaluation_sets(self.config, data),
                columns,
                version,
                self.display,
            )
        self.display.done(f"{sum(map(len, rows.values()))} replies evaluated")
        return rows

    def _report(
        self,
        outcome: Outcome,
        rows: dict[str, list[dict[str, Any]]],
        engines: list[EngineState],
        system: System,
        data: dict[str, Path],
        memory: MemoryWatch,
    ) -> Path:
        """Writes `summary.json` and `report.html` from the run's files."""
        for name, seconds in self.display.seconds.items():
            if name not in self.folder.phases():
                self.folder.finish_phase(name, "", seconds, {})
        root = self.folder.root
        metrics = read_metrics(root, 0)
        samples = read_trajectories(self.folder.trajectories, REPORTED)
        hidden = read_hidden(data["prompts"], "prompts")
        curve = gold_curve(
            samples,
            {prompt_id: json.dumps(truth) for prompt_id, truth in hidden.items()},
        )
        assert system.publisher.current is not None
        summary = summarise(
            self.config,
            outcome,
            metrics,
            rows,
            curve,
            system.publisher.current,
            engines,
            self._canary,
            self.folder.phases(),
            memory.peak_gib,
            self._judge(system),
        )
        write_json(root / "summary.json", summary)
        report = ReportData(
            summary,
            metrics,
            rows,
            curve,
            self.config.evaluation.bootstrap,
            self.config.run.seed,
            read_checks(root),
            samples,
            self.config.enhancement.n,
        )
        write_report(root / "report.html", report)
        return root / "report.html"

    def _judge(self, system: System) -> dict[str, Any] | None:
        """Hashes of rubric, prompt and model, so that a judge that changes has a name; and what
        was spent on it, where that is counted."""
        judge = self.config.judge
        if not judge.enabled:
            return None
        identity = judge_identity(judge, load_rubric(judge.rubric), system.folders.judge)
        return {**identity, **({"usage": asdict(system.budget.totals)} if system.budget else {})}

    # --- phases -------------------------------------------------------------------------

    async def _train(
        self,
        system: System,
        policy: bytes | None,
        schedule: Schedule,
        encode: Encode,
        mailbox: Mailbox,
        prompts: Path,
    ) -> Outcome:
        config, display = self.config, self.display
        checkpoint = latest_checkpoint(self.folder.checkpoints, config.run.name)
        with display.phase("start", "starting engines, learner and scorers (30-60 s on a CPU)"):
            reports = await start_checked(
                config, system, policy, map(encode, schedule.batch(0)), checkpoint, display.line
            )
        self._canary = {engine: asdict(report) for engine, report in reports.items()}
        moved = min(report.engine_moved for report in reports.values())
        off = max(report.canary_difference for report in reports.values())
        display.done(
            "all actors are ready; the canary moved the engines' log-probs by "
            f"{moved:.2f} nats, {off:.3f} from what PEFT says"
        )
        done = checkpoint.step if checkpoint else 0
        monitor = start_monitor(
            config, self.folder.root, system, encode, prompts, schedule.steps, done
        )

        async def after_step(updates: int) -> dict[str, Any]:
            found = await monitor.after_step(updates) if monitor else {}
            judged = await system.budget.figures() if system.budget else {}
            uploaded = self.uploads.metrics() if updates else {}
            return {**found, **judged, **uploaded}

        with display.phase("repo", "sampling the first batch"):
            self._controller = Controller(
                config,
                self.folder.root,
                system,
                schedule,
                encode,
                mailbox,
                display.update,
                checkpoint,
                after_step,
                self.uploads.start,
            )
            try:
                outcome = await self._controller.train()
            finally:
                self._controller = None
        if not outcome.finished:
            display.done(f"stopped at step {outcome.step} of {schedule.steps}; checkpoint written")
            raise Stopped
        blob = await system.learner.adapter_blob("policy")
        self.folder.policy.mkdir(parents=True, exist_ok=True)
        (self.folder.policy / BLOB).write_bytes(blob)
        save_adapter(self.folder.policy, blob, config.model.path)
        await self.uploads.start()
        display.done(f"{outcome.step} steps, adapter version {outcome.step}")
        return outcome
