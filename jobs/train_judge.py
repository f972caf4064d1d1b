"""Tunes the local judge on labelled verdicts and prints its held-out AUC per criterion.

    python jobs/train_judge.py --config jobs/configs/quickstart.yaml \
        --data data/verdicts.parquet --out checkpoints/judge train_judge.epochs=2
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from repo_ray.config.load import ConfigError, load_config
from repo_ray.data.reader import DataError, read_verdicts
from repo_ray.learner.fitting import TrainingError
from repo_ray.learner.judge_training import train_judge
from repo_ray.models.loading import ModelNotFoundError, resolve_model
from repo_ray.rewards.judge.local import JudgeCard
from repo_ray.rewards.judge.rubric import load_rubric


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="YAML config; default: all defaults")
    parser.add_argument("--data", type=Path, required=True, help="verdicts.parquet or .jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    console = Console()
    try:
        config = load_config(arguments.config, arguments.overrides)
        rubric = load_rubric(config.judge.rubric)
        rows = read_verdicts(arguments.data)
        model = resolve_model(config.model.path)
        with console.status("starting") as status:
            result = train_judge(
                config,
                model,
                rows,
                rubric,
                arguments.out,
                lambda step, steps, metrics: status.update(
                    f"step {step}/{steps}: loss {metrics['loss']:.3f}, "
                    f"accuracy {metrics['accuracy']:.3f}"
                ),
            )
    except (ConfigError, DataError, ModelNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    console.print(_table(result.card, config.judge.min_auc))
    console.print(
        f"{result.card.train_verdicts} verdicts, {result.card.seconds:.0f} s: {result.folder}"
    )
    return 0


def _table(card: JudgeCard, min_auc: float) -> Table:
    table = Table(
        "criterion", "held out (+/-)", "AUC", "calibration error", "used", title="Local judge"
    )
    for criterion, figures in card.criteria.items():
        auc, error = figures.auc, figures.calibration_error
        table.add_row(
            criterion,
            f"{figures.positives}/{figures.negatives}",
            "none" if auc is None else f"{auc:.3f}",
            "none" if error is None else f"{error:.3f}",
            "yes" if auc is not None and auc >= min_auc else f"no: AUC below {min_auc}",
        )
    aucs = [f.auc for f in card.criteria.values() if f.auc is not None]
    if aucs:
        table.add_section()
        table.add_row("median", "", f"{statistics.median(aucs):.3f}", "", "")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
