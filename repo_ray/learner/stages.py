"""The supervised stages by name: rows from a file in, checkpoint and measures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repo_ray.config.settings import Config
from repo_ray.data.reader import read_preferences, read_sft, read_verdicts
from repo_ray.learner.dpo_training import DpoResult, train_dpo
from repo_ray.learner.fitting import Progress, TrainingError
from repo_ray.learner.judge_training import train_judge
from repo_ray.learner.reward_training import train_reward_model
from repo_ray.learner.sft_training import SftResult, train_sft
from repo_ray.rewards.judge.rubric import load_rubric

#: (config, base model folder, file of rows, output folder, progress, adapter blob to start from)
#: -> measures. `text` is one line for people; the rest is plain numbers and tables for the
#: summary. Only `sft` and `dpo` start from an adapter; without one they start from the base.
Train = Callable[[Config, Path, Path, Path, Progress, Path | None], dict[str, Any]]


def _warm_start(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress, start: Path | None
) -> dict[str, Any]:
    _from_the_base("warm_start", start)
    if config.warm_start is None:
        raise TrainingError("warm_start is null: there is no warm start to train")
    return _sft_measures(train_sft(config, config.warm_start, model, read_sft(rows), out, progress))


def _sft(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress, start: Path | None
) -> dict[str, Any]:
    return _sft_measures(train_sft(config, config.sft, model, read_sft(rows), out, progress, start))


def _sft_measures(done: SftResult) -> dict[str, Any]:
    text = f"{done.rows} rows, {done.steps} steps, loss {done.train_loss:.2f}"
    if done.heldout_loss is not None:
        text += f", held out {done.heldout_loss:.2f}"
    return {"text": text, **_plain(done)}


def _dpo(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress, start: Path | None
) -> dict[str, Any]:
    done = train_dpo(config, model, read_preferences(rows), out, progress, start)
    text = f"{done.rows} pairs, {done.steps} steps, loss {done.train['loss']:.3f}"
    if done.heldout is not None:
        text += (
            f", held-out accuracy {done.heldout['accuracy']:.3f}, "
            f"margin {done.heldout['margin']:.2f}"
        )
    return {"text": text, **_plain(done)}


def _reward_model(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress, start: Path | None
) -> dict[str, Any]:
    _from_the_base("reward_model", start)
    card = train_reward_model(config, model, read_preferences(rows), out, progress).card
    text = f"{card.train_pairs} pairs, {card.steps} steps"
    if card.heldout is not None:
        text += f", held-out accuracy {card.heldout.accuracy:.3f} ({card.heldout.pairs} pairs)"
    return {"text": text, **card.model_dump(mode="json", exclude={"format", "base"})}


def _judge(
    config: Config, model: Path, rows: Path, out: Path, progress: Progress, start: Path | None
) -> dict[str, Any]:
    _from_the_base("judge", start)
    rubric = load_rubric(config.judge.rubric)
    card = train_judge(config, model, read_verdicts(rows), rubric, out, progress).card
    aucs = [c.auc for c in card.criteria.values() if c.auc is not None]
    text = f"{card.train_verdicts} verdicts, {card.steps} steps, {len(aucs)} criteria measured"
    if aucs:
        text += f", held-out AUC {min(aucs):.2f} to {max(aucs):.2f}"
    return {"text": text, **card.model_dump(mode="json", exclude={"format", "base"})}


def _from_the_base(stage: str, start: Path | None) -> None:
    if start is not None:
        raise TrainingError(f"{stage} starts from the base, not from an adapter ({start})")


def _plain(result: SftResult | DpoResult) -> dict[str, Any]:
    """A result's fields without the path of its adapter."""
    return {name: value for name, value in vars(result).items() if name != "adapter"}


TRAIN: Mapping[str, Train] = {
    "warm_start": _warm_start,
    "sft": _sft,
    "dpo": _dpo,
    "reward_model": _reward_model,
    "judge": _judge,
}
