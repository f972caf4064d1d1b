"""A Ray actor that runs one supervised stage: warm start, SFT, DPO, reward model or judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ray

from repo_ray.actors.files import Files, read_files, unpacked
from repo_ray.actors.logs import log_as_actor
from repo_ray.config import Config

Stage = Literal["warm_start", "sft", "dpo", "reward_model", "judge"]


@ray.remote
class TrainerActor:
    """Trains in one thread while another answers `progress`: create it with `max_concurrency=2`."""

    def __init__(self) -> None:
        self._progress: tuple[int, int, dict[str, float]] = (0, 0, {})

    def progress(self) -> tuple[int, int, dict[str, float]]:
        """(step, steps, latest metrics)."""
        return self._progress

    def train(
        self,
        stage: Stage,
        config: Config,
        model_folder: Path,
        given: Files,
        rows: str,
        start: str | None = None,
    ) -> tuple[dict[str, Any], Files]:
        """Trains on the rows of the file `rows` of `given`.

        `sft` and `dpo` continue from the adapter blob `start` of `given`; the others take none.

        Returns the stage's measures, of which `text` is one line for people (`learner.stages`),
        and the files of its checkpoint.
        """
        import torch

        from repo_ray.learner.stages import TRAIN
        from repo_ray.models.loading import model_on_node

        log_as_actor(config.run.name)
        torch.set_num_threads(config.learner.threads)

        def note(step: int, steps: int, metrics: Mapping[str, float]) -> None:
            self._progress = (step, steps, dict(metrics))

        model = model_on_node(config.model.path, model_folder)
        with unpacked(given) as inputs, unpacked({}) as out:
            blob = inputs / start if start is not None else None
            measures = TRAIN[stage](config, model, inputs / rows, out, note, blob)
            return measures, read_files(out)
