"""A Ray actor that runs one supervised stage: warm start, reward model or judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import ray

from repo_ray.config import Config

Stage = Literal["warm_start", "reward_model", "judge"]


@ray.remote(max_concurrency=2)
class TrainerActor:
    """Trains in one thread; the other answers `progress`."""

    def __init__(self) -> None:
        self._progress: tuple[int, int, dict[str, float]] = (0, 0, {})

    def progress(self) -> tuple[int, int, dict[str, float]]:
        """(step, steps, latest metrics)."""
        return self._progress

    def train(
        self, stage: Stage, config: Config, model_folder: Path, rows_path: Path, out: Path
    ) -> dict[str, Any]:
        """Trains on the stage's data and writes its checkpoint to `out`; returns its measures."""
        import torch

        from repo_ray.learner import stages

        torch.set_num_threads(config.learner.threads)

        def note(step: int, total: int, metrics: dict[str, float]) -> None:
            self._progress = (step, total, metrics)

        return stages.TRAIN[stage](config, model_folder, rows_path, out, note)
