"""The phases of a run, in order: data, model, warm start, reward model, judge, REPO, evaluation."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from repo_ray.actors.control import namespace, start_control
from repo_ray.actors.trainer import Stage, TrainerActor
from repo_ray.config import Config
from repo_ray.config.settings import DataConfig, SupervisedConfig
from repo_ray.data.reader import read_prompts
from repo_ray.models.adapters import save_adapter
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_tokenizer, resolve_model
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.pipeline.canary import run_canary
from repo_ray.pipeline.evaluation import evaluate_columns
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import RunFolder, fingerprint
from repo_ray.pipeline.summary import MemoryWatch, write_summary
from repo_ray.records import Prompt
from repo_ray.training.checkpoints import latest_checkpoint
from repo_ray.training.loop import Controller, Outcome, RunError
from repo_ray.training.schedule import Schedule
from repo_ray.training.system import Folders, System

#: The warm start's adapter inside its folder, on the wire format of `models.adapters`.
BLOB = "adapter.safetensors"
#: File of each data set inside the run's data folder, by the setting that may replace it.
BUILT = {
    "prompts": "prompts.parquet",
    "preferences": "preferences.parquet",
    "sft": "sft.parquet",
    "verdicts": "verdicts.parquet",
    "online": "online.parquet",
    "badcases": "badcases.parquet",
}


class Stopped(Exception):
    """The run was asked to stop (SIGTERM); what is done is saved, `--resume` continues."""


@dataclass
class Pipeline:
    """One run. `main` returns when the report is written."""

    config: Config
    folder: RunFolder
    display: Display

    async def main(self) -> dict[str, Any]:
        """Runs every phase that is not done yet; returns the summary.

        Raises `Stopped`, and every error of the phases with a message for people.
        """
        self._task = asyncio.current_task()
        self._controller: Controller | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop)
        control = start_control(self.config.run.name)
        memory = MemoryWatch()
        try:
            with memory:
                return await self._phases(control, memory)
        except asyncio.CancelledError:
            raise Stopped from None
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            ray.kill(control)

    def _request_stop(self) -> None:
        self.display.line("stop requested: finishing what cannot be interrupted")
        if self._controller is not None:
            self._controller.request_stop()
        elif self._task is not None:
            self._task.cancel()

    async def _phases(self, control: ActorHandle, memory: MemoryWatch) -> dict[str, Any]:
        config = self.config
        data = await self._data()
        with self.display.phase("model", f"preparing {config.model.path}"):
            model = await asyncio.to_thread(resolve_model, config.model.path)
        self.display.done(str(model))
        encode = self._encoder(model)
        prompts = read_prompts(_path(data.prompts), split="train")
        self._refuse_long(prompts, encode)
        schedule = Schedule.of(prompts, config.run)

        warm_start = await self._stage("warm_start", config.warm_start, model, data)
        folders = Folders(model, None, None)
        if config.reward_model.enabled:
            done = await self._stage("reward_model", config.train_reward_model, model, data)
            folders = replace(folders, reward_model=done)
        if config.judge.enabled and config.judge.kind == "local":
            done = await self._stage("judge", config.train_judge, model, data)
            folders = replace(folders, judge=done)
        policy = (warm_start / BLOB).read_bytes() if warm_start else None

        system = System(config, folders)
        try:
            outcome = await self._train(system, policy, schedule, encode, control)
            columns = await evaluate_columns(
                config, self.folder, system, encode, data, policy, self.display
            )
        finally:
            await system.stop()
        return write_summary(
            config, self.folder, outcome, system, columns, self.display.seconds, memory
        )

    # --- phases -------------------------------------------------------------------------

    async def _data(self) -> DataConfig:
        """Builds what the config does not name; returns the paths of all data sets."""
        config, given = self.config, self.config.data
        built = {k: self.folder.data / file for k, file in BUILT.items()}
        paths = given.model_copy(
            update={k: path for k, path in built.items() if getattr(given, k) is None}
        )
        if all(getattr(given, k) is not None for k in BUILT):
            return paths

        async def build() -> dict[str, int]:
            return await asyncio.to_thread(
                build_datasets, self.folder.data, config.run.seed, given.build_preferences
            )

        key = fingerprint(config.run.seed, given.build_preferences)
        counts = await self._once("data", "building the negotiation data", key, build)
        self._say("data", ", ".join(f"{v:,} {k}" for k, v in counts.items()))
        return paths

    async def _stage(
        self, stage: Stage, settings: SupervisedConfig | None, model: Path, data: DataConfig
    ) -> Path | None:
        """Runs one supervised stage, or takes the checkpoint that the config names."""
        config = self.config
        given = {
            "warm_start": None,
            "reward_model": config.reward_model.checkpoint,
            "judge": config.judge.checkpoint,
        }[stage]
        if given is not None or settings is None:
            return given
        rows, what = {
            "warm_start": (data.sft, "warm start: supervised fine-tuning of the policy adapter"),
            "reward_model": (data.preferences, "training the reward model on preference pairs"),
            "judge": (data.verdicts, "tuning the judge on labelled verdicts"),
        }[stage]
        out: Path = getattr(self.folder, stage)

        async def train() -> dict[str, Any]:
            trainer = TrainerActor.options(  # type: ignore[attr-defined]
                name=f"trainer-{stage}",
                namespace=namespace(config.run.name),
                num_cpus=config.learner.cpus,
                num_gpus=config.learner.gpus,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(config.learner.threads)}},
            ).remote()
            try:
                work = asyncio.ensure_future(
                    _result(trainer.train.remote(stage, config, model, _path(rows), out))
                )
                while not work.done():
                    await asyncio.wait({work}, timeout=0.5)
                    done, total, metrics = await _result(trainer.progress.remote())
                    text = ", ".join(f"{k} {v:.3g}" for k, v in metrics.items())
                    self.display.update(done, total or None, text or what)
                return work.result()
            finally:
                ray.kill(trainer)

        key = fingerprint(
            settings.model_dump(),
            config.lora.model_dump(),
            config.model.model_dump(),
            config.run.seed,
            str(rows),
            str(config.judge.rubric) if stage == "judge" else "",
        )
        result = await self._once(stage, what, key, train)
        self._say(stage, str(result.get("text", "")))
        return out

    async def _train(
        self,
        system: System,
        policy: bytes | None,
        schedule: Schedule,
        encode: Callable[[Prompt], list[int]],
        control: ActorHandle,
    ) -> Outcome:
        config, display = self.config, self.display
        checkpoint = latest_checkpoint(self.folder.checkpoints)
        with display.phase("start", "starting engines, learner and scorers (30-60 s on a CPU)"):
            await system.start(policy, display.line, checkpoint and checkpoint.folder)
        display.done("all actors are ready")
        with display.phase("canary", "checking that the engines sample what is pushed to them"):
            canary = await run_canary(config, system, schedule, encode, checkpoint)
        display.done(canary)
        with display.phase("repo", "sampling the first batch"):
            self._controller = Controller(
                config,
                self.folder.root,
                system,
                schedule,
                encode,
                control,
                display.update,
                checkpoint,
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
        display.done(f"{outcome.step} steps, adapter version {outcome.step}")
        return outcome

    # --- inside -------------------------------------------------------------------------

    async def _once(
        self, name: str, what: str, key: str, work: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """The phase's saved result if nothing that it depends on changed, else its new one."""
        saved = self.folder.phases().get(name)
        if saved is not None and saved["fingerprint"] == key:
            self.display.seconds[name] = saved["seconds"]
            return saved["result"]
        began = time.monotonic()
        with self.display.phase(name, what):
            result = await work()
        self.folder.finish_phase(name, key, time.monotonic() - began, result)
        return result

    def _say(self, name: str, text: str) -> None:
        self.display.done(text, name)

    def _encoder(self, model: Path) -> Callable[[Prompt], list[int]]:
        tokenizer = load_tokenizer(model)
        thinking = self.config.model.thinking
        return lambda prompt: encode_prompt(tokenizer, prompt.messages, thinking=thinking)

    def _refuse_long(self, prompts: list[Prompt], encode: Callable[[Prompt], list[int]]) -> None:
        limit = self.config.model.max_prompt_tokens
        for row, prompt in enumerate(prompts):
            count = len(encode(prompt))
            if count > limit:
                raise RunError(
                    f"prompt {prompt.prompt_id} (row {row} of the training split) has {count} "
                    f"tokens, model.max_prompt_tokens is {limit}: raise it or shorten the prompt"
                )


def _path(path: Path | None) -> Path:
    assert path is not None  # filled by `_data`
    return path


async def _result(ref: Any) -> Any:
    """A remote result, with the actor's own exception instead of Ray's wrapper."""
    try:
        return await ref
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
