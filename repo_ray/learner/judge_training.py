"""Tuning of the local judge on labelled verdicts."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase

from repo_ray.config.settings import Config
from repo_ray.data.examples import Verdict
from repo_ray.learner.fitting import Objective, Progress, TrainingError, fit
from repo_ray.learner.preparation import adapted, base_of, chosen_rows
from repo_ray.models.packing import Tree, pack, token_budget_batches, tree_length
from repo_ray.records import Message
from repo_ray.rewards.judge import local
from repo_ray.rewards.judge.network import ADAPTER, JudgeModel, judge_tree
from repo_ray.rewards.judge.rubric import Rubric
from repo_ray.rewards.measures import calibration_error, rank_auc

#: Conversations with more replies than this are judged in several sequences.
MAX_REPLIES = 4
#: Training conversations on which the untrained judge is measured, to set where it starts.
OFFSET_ITEMS = 8


@dataclass(frozen=True)
class JudgeResult:
    folder: Path
    card: local.JudgeCard


@dataclass(frozen=True)
class _Judged:
    """A conversation with its replies as a tree, and the label of every question in it."""

    tree: Tree
    criteria: tuple[str, ...]
    labels: tuple[bool, ...]


def train_judge(
    config: Config,
    model_folder: Path,
    rows: Sequence[Verdict],
    rubric: Rubric,
    out_dir: Path,
    progress: Progress | None = None,
) -> JudgeResult:
    """Tunes the local judge on labelled verdicts (`config.train_judge`), measures it, saves.

    Replies to the same conversation share its tokens. A reply is asked about the criteria that
    it has a label for. Raises `TrainingError` without rows, and for a criterion of the rubric
    that no training row has a label for.
    """
    stage = config.train_judge
    tokenizer, model = adapted(config, model_folder, ADAPTER, stage)
    questions = {c.criterion_id: c.question for c in rubric.criteria}
    network = JudgeModel(model, tokenizer, tuple(questions))
    number = {c: i for i, c in enumerate(questions)}

    def logits(forward: Callable[..., Tensor], items: Sequence[_Judged]) -> Tensor:
        trees = [item.tree for item in items]
        batch = pack(trees, tokenizer.pad_token_id, model.dtype, model.device)
        asked = [number[c] for item in items for c in item.criteria]
        return forward(batch, torch.tensor(asked, device=model.device))

    def loss(
        forward: Callable[..., Tensor], items: Sequence[_Judged]
    ) -> tuple[Tensor, dict[str, float]]:
        answers = logits(forward, items)
        labels = torch.tensor([x for item in items for x in item.labels], device=answers.device)
        right = float(((answers > 0) == labels).sum())
        total = binary_cross_entropy_with_logits(answers, labels.float(), reduction="sum")
        return total, {"accuracy": right}

    def measured(items: Sequence[_Judged]) -> dict[str, tuple[list[bool], list[float]]]:
        """Labels and logits of every criterion."""
        found: dict[str, tuple[list[bool], list[float]]] = {c: ([], []) for c in questions}
        budget = config.learner.micro_batch_tokens
        with torch.inference_mode():
            for indices in token_budget_batches([tree_length(i.tree) for i in items], budget):
                batch = [items[i] for i in indices]
                values = iter(logits(network, batch).tolist())
                for item in batch:
                    for criterion, label in zip(item.criteria, item.labels, strict=True):
                        found[criterion][0].append(label)
                        found[criterion][1].append(next(values))
        return found

    train, heldout = chosen_rows(rows, stage, config.run.seed)
    unlabelled = [c for c in questions if not any(c in row.labels for row in train)]
    if unlabelled:
        raise TrainingError(f"no training verdict has a label for: {', '.join(unlabelled)}")
    items = _judged(train, questions, tokenizer)
    _set_offsets(network, items, measured(items[:OFFSET_ITEMS]))
    objective = Objective(
        network,
        network.trainable(),
        rows=lambda item: sum(s.parent == 0 for s in item.tree),
        length=lambda item: tree_length(item.tree),
        units=lambda item: len(item.labels),
        loss=loss,
    )
    fitted = fit(objective, items, stage, config, progress)
    figures = measured(_judged(heldout, questions, tokenizer))
    card = local.JudgeCard(
        format=local.FORMAT,
        base=base_of(config, model_folder),
        criteria={c: _criterion_figures(questions[c], *figures[c]) for c in questions},
        rubric_digest=rubric.digest,
        train_verdicts=len(train),
        steps=fitted.steps,
        seconds=fitted.seconds,
    )
    local.save_judge(out_dir, network, card)
    return JudgeResult(out_dir, card)


def _judged(
    rows: Sequence[Verdict], questions: Mapping[str, str], tokenizer: PreTrainedTokenizerBase
) -> list[_Judged]:
    together: dict[tuple[Message, ...], list[Verdict]] = defaultdict(list)
    for row in rows:
        if any(c in row.labels for c in questions):
            together[row.prompt.messages].append(row)
    items = []
    for messages, replies in together.items():
        for start in range(0, len(replies), MAX_REPLIES):
            part = replies[start : start + MAX_REPLIES]
            asked = [(row, {c: q for c, q in questions.items() if c in row.labels}) for row in part]
            tree = judge_tree(tokenizer, messages, [(row.reply, own) for row, own in asked])
            criteria = tuple(c for _, own in asked for c in own)
            labels = tuple(row.labels[c] for row, own in asked for c in own)
            items.append(_Judged(tree, criteria, labels))
    return items


def _set_offsets(
    network: JudgeModel,
    items: Sequence[_Judged],
    untrained: Mapping[str, tuple[list[bool], list[float]]],
) -> None:
    """Starts every criterion at its share of true labels, so that no step is spent on learning it."""
    for index, criterion in enumerate(network.criteria):
        labels = [
            label
            for item in items
            for c, label in zip(item.criteria, item.labels, strict=True)
            if c == criterion
        ]
        odds = (sum(labels) + 0.5) / (len(labels) - sum(labels) + 0.5)
        logits = untrained[criterion][1]
        with torch.no_grad():
            network.offsets[index] = math.log(odds) - (statistics.fmean(logits) if logits else 0.0)


def _criterion_figures(
    question: str, labels: Sequence[bool], logits: Sequence[float]
) -> local.CriterionCard:
    auc = rank_auc(labels, logits)
    likelihoods = torch.sigmoid(torch.tensor(logits)).tolist()
    return local.CriterionCard(
        question=question,
        auc=auc,
        calibration_error=None if auc is None else calibration_error(labels, likelihoods),
        positives=sum(labels),
        negatives=len(labels) - sum(labels),
    )
