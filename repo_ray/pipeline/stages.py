"""The supervised stages before REPO, side by side as far as they do not depend on each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from repo_ray.actors.control import namespace
from repo_ray.actors.environment import thread_environment
from repo_ray.actors.failures import short
from repo_ray.actors.files import read_file, write_files
from repo_ray.actors.placement import actor_options
from repo_ray.actors.trainer import Stage, TrainerActor
from repo_ray.config import Config
from repo_ray.config.supervised import SupervisedConfig
from repo_ray.learner.fitting import TrainingError
from repo_ray.pipeline.own_samples import write_pairs
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import BLOB, RunFolder, fingerprint
from repo_ray.training.checkpoints import file_sha256

#: Each stage's settings and the data set that it learns from.
DATA: Mapping[Stage, str] = {
    "warm_start": "sft",
    "reward_model": "preferences",
    "judge": "verdicts",
    "sft": "sft",
    "dpo": "preferences",
}


async def run_stages(
    config: Config, folder: RunFolder, model: Path, data: Mapping[str, Path], display: Display
) -> dict[Stage, Path | None]:
    """Checkpoint folder by stage; None where the config needs no such stage.

    A stage whose settings and data are those of a finished one is not run again; its files must
    still have the hashes noted then (`CheckpointError`). Raises what a stage raises.
    """
    given, wanted = _wanted(config)
    keys = {stage: _key(config, stage, wanted[stage], data) for stage in wanted}
    against_own = "reward_model" in wanted and config.train_reward_model.own_samples > 0
    policy_folder = given["warm_start"]
    if against_own:
        # The pairs are made with the warm start, so what changes it changes them.
        policy_key = file_sha256(policy_folder / BLOB) if policy_folder else keys.get("warm_start")
        sampling = config.sampling.model_dump(mode="json")
        keys["reward_model"] = fingerprint(keys["reward_model"], policy_key, sampling)
        if policy_folder is None and config.warm_start is not None:
            policy_folder = folder.warm_start
    finished = folder.phases()
    pending = [s for s in wanted if finished.get(s, {}).get("fingerprint") != keys[s]]
    for stage in wanted:
        if stage not in pending:
            folder.verify(stage)
    progress = dict.fromkeys(pending, "starting")

    async def one(stage: Stage) -> None:
        out, rows, made, settings = getattr(folder, stage), data[DATA[stage]], "", config
        began = time.monotonic()

        def tell(state: str) -> None:
            progress[stage] = state
            text = " · ".join(f"{name} {state}" for name, state in progress.items())
            display.update(None, None, text)

        if against_own and stage == "reward_model":
            if "warm_start" in tasks:
                tell("waiting for the warm start")
                await asyncio.shield(tasks["warm_start"])
            began = time.monotonic()
            policy = (policy_folder / BLOB).read_bytes() if policy_folder else None
            rows, made = await write_pairs(config, folder, model, policy, rows, tell)
            settings = _on_all_rows(config)
        tell("starting")
        alone = all(other == stage or tasks[other].done() for other in pending)
        result = await train_stage(settings, stage, model, rows, out, tell, alone=alone)
        if made:
            result["text"] += f"; {made}"
        hashes = await asyncio.to_thread(folder.hashes, out)
        folder.finish_phase(stage, keys[stage], time.monotonic() - began, result, hashes)
        progress[stage] = "done"

    tasks: dict[Stage, asyncio.Future[None]] = {}
    if pending:
        with display.phase("training", f"{', '.join(pending)}, side by side"):
            tasks.update((stage, asyncio.ensure_future(one(stage))) for stage in pending)
            try:
                await asyncio.gather(*tasks.values())
            finally:
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)
    for stage in wanted:
        phase = folder.phases()[stage]
        display.seconds[stage] = phase["seconds"]
        display.done(phase["result"]["text"], stage)
    return {**given, **{stage: getattr(folder, stage) for stage in wanted}}


def _wanted(config: Config) -> tuple[dict[Stage, Path | None], dict[Stage, SupervisedConfig]]:
    """Checkpoints that exist already (or are not needed), and the stages to run."""
    given: dict[Stage, Path | None] = {"warm_start": None, "reward_model": None, "judge": None}
    wanted: dict[Stage, SupervisedConfig] = {}
    if config.warm_start is not None:
        given["warm_start"] = config.warm_start.checkpoint
        if config.warm_start.checkpoint is None:
            wanted["warm_start"] = config.warm_start
    if config.reward_model.enabled:
        given["reward_model"] = config.reward_model.checkpoint
        if config.reward_model.checkpoint is None:
            wanted["reward_model"] = config.train_reward_model
    if config.judge.enabled and config.judge.kind == "local":
        given["judge"] = config.judge.checkpoint
        if config.judge.checkpoint is None:
            wanted["judge"] = config.train_judge
    return given, wanted


def _on_all_rows(config: Config) -> Config:
    """The reward model takes every row of its file."""
    everything = {"max_rows": None, "max_eval_rows": None}
    stage = config.train_reward_model.model_copy(update=everything)
    return config.model_copy(update={"train_reward_model": stage})


def _key(config: Config, stage: Stage, settings: SupervisedConfig, data: Mapping[str, Path]) -> str:
    """What the stage's result depends on; files by content, so that a run folder may move."""
    rubric = config.judge.rubric if stage == "judge" else None
    return fingerprint(
        settings.model_dump(mode="json"),
        config.lora.model_dump(mode="json"),
        config.model.model_dump(mode="json"),
        config.run.seed,
        file_sha256(data[DATA[stage]]),
        file_sha256(rubric) if rubric else "",
    )


async def train_stage(
    config: Config,
    stage: Stage,
    model: Path,
    rows: Path,
    out: Path,
    tell: Callable[[str], None],
    start: Path | None = None,
    alone: bool = True,
) -> dict[str, Any]:
    """Runs one stage in an actor of its own, telling its progress in words every second.

    The checkpoint's files come from the actor's node to the folder `out`. `sft` and `dpo` continue
    from the adapter blob `start`. `alone`: nothing else computes meanwhile. Raises what the stage
    raises, and `TrainingError` where its process dies or says nothing for `run.silence_s`.
    """
    given = {path.name: read_file(path) for path in (rows, start) if path is not None}
    trainer = TrainerActor.options(  # type: ignore[attr-defined]
        name=f"trainer-{stage}",
        namespace=namespace(config.run.name),
        max_concurrency=2,
        runtime_env={"env_vars": thread_environment(config.learner.threads, alone=alone)},
        **actor_options(config.learner),
    ).remote()
    ref = trainer.train.remote(
        stage, config, model, given, rows.name, start.name if start is not None else None
    )
    work = asyncio.ensure_future(_result(stage, ref))
    silence: float | None = None  # one that has never answered may wait for its place
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=1.0)
            sign = _result(stage, trainer.progress.remote())
            try:
                done, total, metrics = await asyncio.wait_for(sign, silence)
            except TimeoutError:
                if work.done():
                    break
                raise TrainingError(
                    f"{stage}: no sign of life for {silence:g} s: the process is frozen, or its "
                    "node does not answer"
                ) from None
            silence = config.run.silence_s
            if total:
                tell(f"{done}/{total} loss {metrics.get('loss', 0.0):.2f}")
        measures, files = work.result()
        await asyncio.to_thread(write_files, out, files)
        return dict(measures)
    finally:
        work.cancel()
        ray.kill(trainer)


async def _result(stage: Stage, ref: Any) -> Any:
    """A remote result, with the actor's own exception instead of Ray's wrapper."""
    try:
        return await ref
    except RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except RayActorError as error:
        raise TrainingError(
            f"{stage}: the training process died ({short(error)}); --resume trains it again"
        ) from error
