"""A Ray actor that runs one supervised stage: warm start, reward model or judge."""

from __future__ import annotations

from dataclasses import asdict
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
        self, stage: Stage, config: Config, model_folder: Path, rows: Path, out: Path
    ) -> dict[str, Any]:
        """Trains on the rows of one file and writes the stage's checkpoint to `out`.

        Returns the stage's measures: of the warm start its losses, of reward model and judge
        the checkpoint's card.
        """
        import torch

        from repo_ray.data.reader import read_preferences, read_sft, read_verdicts
        from repo_ray.learner.judge_training import train_judge
        from repo_ray.learner.reward_training import train_reward_model
        from repo_ray.learner.warm_start import train_sft
        from repo_ray.rewards.judge.rubric import load_rubric

        torch.set_num_threads(config.learner.threads)

        def note(step: int, steps: int, metrics: dict[str, float]) -> None:
            self._progress = (step, steps, metrics)

        match stage:
            case "warm_start":
                result = train_sft(config, model_folder, read_sft(rows), out, note)
                return {**asdict(result), "adapter": str(result.adapter)}
            case "reward_model":
                pairs = read_preferences(rows)
                return train_reward_model(config, model_folder, pairs, out, note).card.model_dump(
                    mode="json"
                )
            case "judge":
                rubric = load_rubric(config.judge.rubric)
                return train_judge(
                    config, model_folder, read_verdicts(rows), rubric, out, note
                ).card.model_dump(mode="json")
