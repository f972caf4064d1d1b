"""Trains the reward model on preference pairs and prints its held-out figures.

    python jobs/train_reward_model.py --config jobs/configs/quickstart.yaml \
        --data data/preferences.parquet --out checkpoints/reward_model train_reward_model.epochs=2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from repo_ray.config.load import ConfigError, load_config
from repo_ray.data.reader import DataError, read_preferences
from repo_ray.learner.fitting import TrainingError
from repo_ray.learner.reward_training import train_reward_model
from repo_ray.models.loading import ModelNotFoundError, resolve_model
from repo_ray.rewards.reward_model import RewardModelCard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="YAML config; default: all defaults")
    parser.add_argument("--data", type=Path, required=True, help="preferences.parquet or .jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    console = Console()
    try:
        config = load_config(arguments.config, arguments.overrides)
        if config.train_reward_model.own_samples:
            raise ConfigError(
                "train_reward_model.own_samples needs a warm start and engines, which this job does "
                "not start: train within jobs/train_repo.py, or set it to 0 and give the pairs in --data"
            )
        rows = read_preferences(arguments.data)
        model = resolve_model(config.model.path)
        with console.status("starting") as status:
            result = train_reward_model(
                config,
                model,
                rows,
                arguments.out,
                lambda step, steps, metrics: status.update(
                    f"step {step}/{steps}: loss {metrics['loss']:.3f}, "
                    f"pair accuracy {metrics['accuracy']:.3f}"
                ),
            )
    except (ConfigError, DataError, ModelNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    console.print(_table(result.card))
    console.print(f"{result.card.train_pairs} pairs, {result.card.seconds:.0f} s: {result.folder}")
    return 0


def _table(card: RewardModelCard) -> Table:
    table = Table("pairs held out", "number", "accuracy", title="Reward model")
    if card.heldout is None:
        return table
    for defect, accuracy in card.heldout.accuracy_by_defect.items():
        table.add_row(defect, str(card.heldout.pairs_by_defect[defect]), f"{accuracy:.3f}")
    table.add_section()
    table.add_row("all", str(card.heldout.pairs), f"{card.heldout.accuracy:.3f}")
    table.add_row("calibration error", "", f"{card.heldout.calibration_error:.3f}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
