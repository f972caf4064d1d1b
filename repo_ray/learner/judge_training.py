"""Tuning of the local judge on labelled verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase

from repo_ray.config.settings import Config
from repo_ray.data.examples import Verdict
from repo_ray.learner.fitting import Objective, Progress, TrainingError, fit
from repo_ray.learner.preparation import adapted, base_of, chosen_rows
from repo_ray.models.packing import PackedBatch, Tree, pack, token_budget_batches, tree_length
from repo_ray.records import Message
from repo_ray.rewards.judge import local
from repo_ray.rewards.judge.network import ADAPTER, JudgeModel, judge_tree
from repo_ray.rewards.judge.rubric import Rubric
from repo_ray.rewards.measures import calibration_error, rank_auc

#: Conversations with more replies than this are judged in several sequences.
MAX_REPLIES = 4


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
    network = JudgeModel(model, tokenizer)
    questions = {c.criterion_id: c.question for c in rubric.criteria}

    def loss(
        forward: Callable[..., Tensor], items: Sequence[_Judged]
    ) -> tuple[Tensor, dict[str, float]]:
        logits = forward(_pack_judged(items, tokenizer, model))
        labels = torch.tensor([x for item in items for x in item.labels], device=logits.device)
        right = float(((logits > 0) == labels).sum())
        total = binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
        return total, {"accuracy": right}

    train, heldout = chosen_rows(rows, stage, config.run.seed)
    unlabelled = [c for c in questions if not any(c in row.labels for row in train)]
    if unlabelled:
        raise TrainingError(f"no training verdict has a label for: {', '.join(unlabelled)}")
    objective = Objective(
        network,
        network.trainable(),
        rows=lambda item: sum(s.parent == 0 for s in item.tree),
        length=lambda item: tree_length(item.tree),
        units=lambda item: len(item.labels),
        loss=loss,
    )
    fitted = fit(objective, _judged(train, questions, tokenizer), stage, config, progress)

    labels: dict[str, list[bool]] = {c: [] for c in questions}
    likelihoods: dict[str, list[float]] = {c: [] for c in questions}
    items = _judged(heldout, questions, tokenizer)
    with torch.inference_mode():
        for indices in token_budget_batches(
            [tree_length(item.tree) for item in items], config.learner.micro_batch_tokens
        ):
            batch = [items[i] for i in indices]
            values = iter(torch.sigmoid(network(_pack_judged(batch, tokenizer, model))).tolist())
            for item in batch:
                for criterion, label in zip(item.criteria, item.labels, strict=True):
                    labels[criterion].append(label)
                    likelihoods[criterion].append(next(values))
    card = local.JudgeCard(
        format=local.FORMAT,
        base=base_of(config, model_folder),
        criteria={
            c: _criterion_figures(questions[c], labels[c], likelihoods[c]) for c in questions
        },
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


def _pack_judged(
    items: Sequence[_Judged], tokenizer: PreTrainedTokenizerBase, model: PeftModel
) -> PackedBatch:
    return pack([item.tree for item in items], tokenizer.pad_token_id, model.dtype, model.device)


def _criterion_figures(
    question: str, labels: Sequence[bool], likelihoods: Sequence[float]
) -> local.CriterionCard:
    auc = rank_auc(labels, likelihoods)
    return local.CriterionCard(
        question=question,
        auc=auc,
        calibration_error=None if auc is None else calibration_error(labels, likelihoods),
        positives=sum(labels),
        negatives=len(labels) - sum(labels),
    )
