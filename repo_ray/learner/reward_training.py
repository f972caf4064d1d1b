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
from repo_ray.data.selection import chosen_rows
from repo_ray.learner.fitting import Objective, Progress, TrainingError, fit
from repo_ray.learner.preparation import adapted, base_of
from repo_ray.models.packing import Tree, budget_batches, pack, tree_length
from repo_ray.records import Message
from repo_ray.rewards import reward_model as rm
from repo_ray.rewards.measures import calibration_error

#: Pairs with the same prompt and the same chosen reply.
Group = list[Preference]


@dataclass(frozen=True)
class Item:
    """A group of `pairs` pairs as one tree: the prompt, the chosen reply, the rejected ones."""

    tree: Tree
    pairs: int


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
    held-out rows it is the training replies. Raises `TrainingError` without rows, and where the rewards have no zero
    and scale: all equal, or not finite.
    """
    stage = config.train_reward_model
    tokenizer, model = adapted(config, model_folder, rm.ADAPTER, stage)
    network = rm.RewardModel(model)

    def tree(group: Group) -> Tree:
        replies = [group[0].chosen, *(row.rejected for row in group)]
        return rm.pair_tree(
            tokenizer, group[0].prompt.messages, replies, thinking=config.model.thinking
        )

    def rewards(forward: Callable[..., Tensor], items: Sequence[Item]) -> Tensor:
        """[P, 2]: chosen and rejected of every pair of the items."""
        batch = pack([item.tree for item in items], model.device)
        by_item = forward(batch).split([item.pairs + 1 for item in items])
        return torch.cat([torch.stack([r[:1].expand(len(r) - 1), r[1:]], -1) for r in by_item])

    def loss(
        forward: Callable[..., Tensor], items: Sequence[Item]
    ) -> tuple[Tensor, dict[str, float]]:
        chosen, rejected = rewards(forward, items).unbind(-1)
        right = float((chosen > rejected).sum())
        return rm.bradley_terry_loss(chosen, rejected).sum(), {"accuracy": right}

    train, heldout = chosen_rows(rows, stage, config.run.seed)
    objective = Objective(
        network,
        network.trainable(),
        rows=lambda item: item.pairs,
        length=lambda item: tree_length(item.tree),
        units=lambda item: item.pairs,
        loss=loss,
    )
    items = [Item(tree(group), len(group)) for group in by_chosen(train)]
    fitted = fit(objective, items, stage, config, progress)

    groups = by_chosen(heldout or train)
    items = [Item(tree(group), len(group)) for group in groups]
    found: dict[int, Tensor] = {}
    with torch.inference_mode():
        for batch in budget_batches(
            [tree_length(item.tree) for item in items], config.learner.micro_batch_tokens
        ):
            values = rewards(network, [items[i] for i in batch]).double().cpu()
            found.update(zip(batch, values.split([items[i].pairs for i in batch]), strict=True))
    pairs = torch.cat([found[i] for i in range(len(items))])
    reference = [row for group in groups for row in group]
    replies = torch.cat([torch.cat([found[i][:1, 0], found[i][:, 1]]) for i in range(len(items))])
    card = rm.RewardModelCard(
        format=rm.FORMAT,
        base=base_of(config, model_folder),
        thinking=config.model.thinking,
        train_pairs=len(train),
        steps=fitted.steps,
        seconds=fitted.seconds,
        reference="heldout" if heldout else "train",
        reference_replies=replies.numel(),
        heldout=_pair_figures(reference, pairs) if heldout else None,
    )
    try:
        rm.save_reward_model(out_dir, network, float(replies.mean()), float(replies.std()), card)
    except ValueError as error:
        raise TrainingError(f"{error}: it has learned nothing, or numbers overflow") from error
    return RewardModelResult(out_dir, card)


def by_chosen(rows: Sequence[Preference]) -> list[Group]:
    """The rows in groups, in order of their first row: what they share is computed once."""
    groups: dict[tuple[str, tuple[Message, ...], str], Group] = {}
    for row in rows:
        groups.setdefault((row.prompt.prompt_id, row.prompt.messages, row.chosen), []).append(row)
    return list(groups.values())


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
