"""The supervised stages by name: rows from a file in, checkpoint and measures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repo_ray.config.settings import Config
from repo_ray.data.reader import read_preferences, read_sft, read_verdicts
from repo_ray.learner.fitting import Progress
from repo_ray.learner.supervised import train_judge, train_reward_model, train_sft
from repo_ray.rewards.judge.rubric import load_rubric

#: (config, base model folder, file of rows, output folder, progress) -> measures. `text` is one
#: line for people; the rest is plain numbers and tables for the summary.
Train = Callable[[Config, Path, Path, Path, Progress], dict[str, Any]]


def _warm_start(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress
) -> dict[str, Any]:
    done = train_sft(config, model, read_sft(rows), out, progress)
    text = f"{done.rows} rows, {done.steps} steps, loss {done.train_loss:.2f}"
    if done.heldout_loss is not None:
        text += f", held out {done.heldout_loss:.2f}"
    return {
        "text": text,
        "rows": done.rows,
        "steps": done.steps,
        "seconds": done.seconds,
        "train_loss": done.train_loss,
        "heldout_loss": done.heldout_loss,
    }


def _reward_model(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress
) -> dict[str, Any]:
    card = train_reward_model(config, model, read_preferences(rows), out, progress).card
    text = f"{card.train_pairs} pairs, {card.steps} steps"
    if card.heldout is not None:
        text += f", held-out accuracy {card.heldout.accuracy:.3f} ({card.heldout.pairs} pairs)"
    return {"text": text, **card.model_dump(mode="json", exclude={"format", "base"})}


def _judge(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress
) -> dict[str, Any]:
    rubric = load_rubric(config.judge.rubric)
    card = train_judge(config, model, read_verdicts(rows), rubric, out, progress).card
    aucs = [c.auc for c in card.criteria.values() if c.auc is not None]
    text = f"{card.train_verdicts} verdicts, {card.steps} steps, {len(aucs)} criteria measured"
    if aucs:
        text += f", held-out AUC {min(aucs):.2f} to {max(aucs):.2f}"
    return {"text": text, **card.model_dump(mode="json", exclude={"format", "base"})}


TRAIN: Mapping[str, Train] = {
    "warm_start": _warm_start,
    "reward_model": _reward_model,
    "judge": _judge,
}
