"""Evaluates the models of a finished run again: more dialogues, more turns, other limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from repo_ray.config import Config
from repo_ray.models.adapters import zero_adapter
from repo_ray.models.loading import resolve_model
from repo_ray.pipeline.data import encoder, prepare_data, refuse_long
from repo_ray.pipeline.evaluation import evaluate_columns, evaluation_sets
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import RunFolder
from repo_ray.pipeline.signals import Stopped, stop_requests
from repo_ray.pipeline.stages import run_stages
from repo_ray.serving.run_models import RunModels
from repo_ray.training.system import Folders, System

#: Column of the evaluation by the name that `serving.run_models` gives an adapter.
COLUMNS = {"warm": "warm_start", "repo": "repo"}


async def evaluate_run(
    models: RunModels, config: Config, out: Path, display: Display
) -> dict[str, list[dict[str, Any]]]:
    """Rows of `EVALUATION_SCHEMA` for base and every adapter of the run, saved below `out`.

    `config` is the run's, with other settings of `evaluation` perhaps. Raises `Stopped`, and what
    starting and sampling raise.
    """
    policies = {"base": zero_adapter(models.adapters["repo"])}
    policies |= {COLUMNS[name]: blob for name, blob in models.adapters.items()}
    task = asyncio.current_task()
    assert task is not None
    try:
        with stop_requests(task.cancel):
            model = resolve_model(config.model.path)
            data = await prepare_data(config, models.folder, display)
            encode = encoder(config, model)
            refuse_long(config, data, encode)
            made = await run_stages(config, models.folder, model, data, display)
            folders = Folders(model, made["reward_model"], made["judge"])
            system = System(config, folders, models.folder.root)
            sets = evaluation_sets(config, data)
            with display.phase("evaluation", "starting engines and scorers"):
                try:
                    await system.start_pools(display.line)
                    return await evaluate_columns(
                        config,
                        RunFolder(out),
                        system,
                        encode,
                        sets,
                        policies,
                        0,
                        display,
                    )
                finally:
                    await system.stop()
    except asyncio.CancelledError:
        raise Stopped from None
