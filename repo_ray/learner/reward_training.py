"""Training of the reward model on preference pairs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from repo_ray.config.settings import Config
from repo_ray.data.examples import Preference
from repo_ray.learner.fitting import Objective, Progress, fit
from repo_ray.learner.preparation import adapted, base_of, chosen_rows
from repo_ray.models.packing import Tree, pack, token_budget_batches, tree_length
from repo_ray.rewards import reward_model as rm
from repo_ray.rewards.measures import calibration_error


@dataclass(frozen=True)
class RewardModelResult:
    folder: Path
    card: rm.RewardModelCard


def train_reward_model(
    config: Config,
    model_folder: Path,
    rows: Sequence[Preference],
    out_dir: Path,
    progress: Progress | None = None,
) -> RewardModelResult:
    """Trains on preference pairs (`config.train_reward_model`), sets zero and scale, saves.

    The reference set for zero and scale is the held-out replies, chosen and rejected, since on
    training pairs the rewards of a model that has memorised them are too far apart; without
    held-out rows it is the training replies. Raises `TrainingError` without rows.
    """
    stage = config.train_reward_model
    tokenizer, model = adapted(config, model_folder, rm.ADAPTER, stage)
    network = rm.RewardModel(model)

    def trees(rows: Sequence[Preference]) -> list[Tree]:
        return [
            rm.pair_tree(
                tokenizer,
                row.prompt.messages,
                [row.chosen, row.rejected],
                thinking=config.model.thinking,
            )
            for row in rows
        ]

    def rewards(forward: Callable[..., Tensor], items: Sequence[Tree]) -> Tensor:
        batch = pack(items, tokenizer.pad_token_id, model.dtype, model.device)
        return forward(batch).view(-1, 2)

    def loss(
        forward: Callable[..., Tensor], items: Sequence[Tree]
    ) -> tuple[Tensor, dict[str, float]]:
        chosen, rejected = rewards(forward, items).unbind(-1)
        right = float((chosen > rejected).sum())
        return rm.bradley_terry_loss(chosen, rejected).sum(), {"accuracy": right}

    train, heldout = chosen_rows(rows, stage, config.run.seed)
    objective = Objective(
        network,
        network.trainable(),
        rows=lambda _: 1,
        length=tree_length,
        units=lambda _: 1,
        loss=loss,
    )
    fitted = fit(objective, trees(train), stage, config, progress)

    reference = heldout or train
    pairs = torch.empty(len(reference), 2, dtype=torch.float64)
    packed = trees(reference)
    with torch.inference_mode():
        for batch in token_budget_batches(
            [tree_length(tree) for tree in packed], config.learner.micro_batch_tokens
        ):
            pairs[batch] = rewards(network, [packed[i] for i in batch]).double().cpu()
    card = rm.RewardModelCard(
        format=rm.FORMAT,
        base=base_of(config, model_folder),
        thinking=config.model.thinking,
        train_pairs=len(train),
        steps=fitted.steps,
        seconds=fitted.seconds,
        reference="heldout" if heldout else "train",
        reference_replies=pairs.numel(),
        heldout=_pair_figures(heldout, pairs) if heldout else None,
    )
    rm.save_reward_model(out_dir, network, float(pairs.mean()), float(pairs.std()), card)
    return RewardModelResult(out_dir, card)


def _pair_figures(rows: Sequence[Preference], pairs: Tensor) -> rm.Heldout:
    difference = (pairs[:, 0] - pairs[:, 1]).tolist()
    right = [1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in difference]
    by_defect: dict[str, list[float]] = defaultdict(list)
    for row, value in zip(rows, right, strict=True):
        by_defect[row.defect or "unnamed"].append(value)
    # A pair has no wrong way round, so calibration is that of the preferred reply's probability.
    sure = [1 / (1 + math.exp(-min(abs(d), 50.0))) for d in difference]
    return rm.Heldout(
        pairs=len(rows),
        accuracy=statistics.fmean(right),
        calibration_error=calibration_error([r == 1.0 for r in right], sure),
        accuracy_by_defect={k: statistics.fmean(v) for k, v in sorted(by_defect.items())},
        pairs_by_defect={k: len(v) for k, v in sorted(by_defect.items())},
    )
