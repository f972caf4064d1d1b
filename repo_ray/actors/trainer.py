"""A Ray actor that runs one supervised stage: warm start, SFT, DPO, reward model or judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ray

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
        rows: Path,
        out: Path,
        start: Path | None = None,
    ) -> dict[str, Any]:
        """Trains on the rows of one file and writes the stage's checkpoint to `out`.

        `sft` and `dpo` continue from the adapter blob `start`; the others take none.

        Returns the stage's measures; `text` is one line for people (`learner.stages`).
        """
        import torch

        from repo_ray.learner.stages import TRAIN

        log_as_actor(config.run.name)
        torch.set_num_threads(config.learner.threads)

        def note(step: int, steps: int, metrics: Mapping[str, float]) -> None:
            self._progress = (step, steps, dict(metrics))

        return TRAIN[stage](config, model_folder, rows, out, note, start)
