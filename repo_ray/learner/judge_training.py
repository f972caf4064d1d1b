"""Tuning of the local judge on labelled verdicts."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase

from repo_ray.config.settings import Config
from repo_ray.data.examples import Verdict
from repo_ray.data.selection import chosen_rows
from repo_ray.learner.fitting import Objective, Progress, TrainingError, fit
from repo_ray.learner.preparation import adapted, base_of
from repo_ray.models.packing import Tree, budget_batches, pack, tree_length
from repo_ray.records import Message
from repo_ray.rewards.judge import local
from repo_ray.rewards.judge.injections import made_up
from repo_ray.rewards.judge.network import (
    ADAPTER,
    JudgeModel,
    judge_loss,
    judge_tree,
    reply_ends,
    reply_sentences,
)
from repo_ray.rewards.judge.rubric import Rubric
from repo_ray.rewards.measures import calibration_error, rank_auc

#: Conversations with more replies than this are judged in several sequences.
MAX_REPLIES = 4
#: Share of the training replies that are judged a second time with an attempt at injection, and
#: what the sentences weigh together, in units of all verdicts together.
TWIN_SHARE, SCREENING = 0.5, 0.3


@dataclass(frozen=True)
class JudgeResult:
    folder: Path
    card: local.JudgeCard


@dataclass(frozen=True)
class _Judged:
    """A conversation with its replies, and a label per reply and criterion (NaN: none).

    The last `twins` replies repeat others with an attempt to talk to the judge. `addressed` says
    of every sentence of every reply whether it is such an attempt.
    """

    tree: Tree
    labels: Float[Tensor, "N C"]
    addressed: Float[Tensor, S]
    twins: int


def train_judge(
    config: Config,
    model_folder: Path,
    rows: Sequence[Verdict],
    rubric: Rubric,
    out_dir: Path,
    progress: Progress | None = None,
) -> JudgeResult:
    """Tunes the local judge on labelled verdicts (`config.train_judge`), measures it, saves.

    Replies to the same conversation share its tokens. A reply may lack labels for some criteria.
    Raises `TrainingError` without rows, and for a criterion of the rubric that no training row
    has a label for.
    """
    stage = config.train_judge
    tokenizer, model = adapted(config, model_folder, ADAPTER, stage)
    network = JudgeModel(model, rubric.ids)

    def logits(
        forward: Callable[..., Tensor], items: Sequence[_Judged]
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, S]]:
        """Of every criterion at the ends of the replies, and of `ADDRESSED` at the sentences."""
        trees = [item.tree for item in items]
        found = forward(pack(trees, model.device))
        ends = torch.tensor([end for tree in trees for end in reply_ends(tree)])
        return found[ends, :-1], found[~ends, -1]

    def loss(
        forward: Callable[..., Tensor], items: Sequence[_Judged]
    ) -> tuple[Tensor, dict[str, float]]:
        answers, talks = logits(forward, items)
        addressed = torch.cat([item.addressed for item in items]).to(talks.device)
        labels = torch.cat([item.labels for item in items]).to(answers.device)
        sizes = torch.tensor([len(item.labels) for item in items], device=answers.device)
        groups = torch.repeat_interleave(torch.arange(len(items), device=sizes.device), sizes)
        # A missing label is NaN, which equals nothing.
        right = ((answers > 0) & (labels == 1)) | ((answers <= 0) & (labels == 0))
        screening = SCREENING * binary_cross_entropy_with_logits(talks, addressed) * right.numel()
        return judge_loss(answers, labels, groups) + screening, {"accuracy": float(right.sum())}

    train, heldout = chosen_rows(rows, stage, config.run.seed)
    unlabelled = [c for c in rubric.ids if not any(c in row.labels for row in train)]
    if unlabelled:
        raise TrainingError(f"no training verdict has a label for: {', '.join(unlabelled)}")
    items = _judged(train, rubric.ids, tokenizer, TWIN_SHARE, random.Random(config.run.seed))
    _set_offsets(
        network,
        torch.cat([item.labels for item in items]),
        torch.cat([item.addressed for item in items]),
    )
    objective = Objective(
        network,
        network.trainable(),
        rows=lambda item: len(item.labels) - item.twins,
        length=lambda item: tree_length(item.tree),
        units=lambda item: int((~item.labels.isnan()).sum()),
        loss=loss,
    )
    fitted = fit(objective, items, stage, config, progress)

    held = _judged(heldout, rubric.ids, tokenizer, 0.0, random.Random())
    found = torch.full((sum(len(item.labels) for item in held), len(rubric.ids)), torch.nan)
    labels = torch.cat([torch.empty(0, len(rubric.ids)), *(item.labels for item in held)])
    starts = [0, *itertools.accumulate(len(item.labels) for item in held)]
    budget = config.learner.micro_batch_tokens
    with torch.inference_mode():
        for indices in budget_batches([tree_length(item.tree) for item in held], budget):
            places = [p for i in indices for p in range(starts[i], starts[i + 1])]
            found[places] = logits(network, [held[i] for i in indices])[0].cpu()
    card = local.JudgeCard(
        format=local.FORMAT,
        base=base_of(config, model_folder),
        criteria={
            c.criterion_id: _criterion_figures(c.question, labels[:, i], found[:, i])
            for i, c in enumerate(rubric.criteria)
        },
        rubric_digest=rubric.digest,
        train_verdicts=len(train),
        steps=fitted.steps,
        seconds=fitted.seconds,
    )
    local.save_judge(out_dir, network, card)
    return JudgeResult(out_dir, card)


def _judged(
    rows: Sequence[Verdict],
    criteria: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    twin_share: float,
    rng: random.Random,
) -> list[_Judged]:
    together: dict[tuple[Message, ...], list[Verdict]] = defaultdict(list)
    for row in rows:
        together[row.prompt.messages].append(row)
    items = []
    for messages, replies in together.items():
        for start in range(0, len(replies), MAX_REPLIES):
            part = replies[start : start + MAX_REPLIES]
            twins = [row for row in part if rng.random() < twin_share]
            texts = [(row.reply, range(0)) for row in part]
            texts += [made_up(row.reply, criteria, rng) for row in twins]
            labels = [
                [float(row.labels.get(c, math.nan)) for c in criteria] for row in (*part, *twins)
            ]
            items.append(
                _Judged(
                    judge_tree(tokenizer, messages, [text for text, _ in texts]),
                    torch.tensor(labels),
                    torch.tensor([one for text in texts for one in _addressed(*text)]),
                    len(twins),
                )
            )
    return items


def _addressed(reply: str, attempt: range) -> list[float]:
    """1 for each sentence that lies in the attempt for the most part, else 0."""
    found, at = [], len(reply) - len(reply.lstrip())
    for sentence in reply_sentences(reply):
        inside = len(range(max(at, attempt.start), min(at + len(sentence), attempt.stop)))
        found.append(float(inside > len(sentence) / 2))
        at += len(sentence)
    return found


def _set_offsets(
    network: JudgeModel, labels: Float[Tensor, "N C"], addressed: Float[Tensor, S]
) -> None:
    """Starts every answer at its share of true labels, so that no step is spent on that."""
    true, false = (labels == 1).sum(0), (labels == 0).sum(0)
    talks = addressed.sum()[None]
    true, false = torch.cat([true, talks]), torch.cat([false, len(addressed) - talks])
    with torch.no_grad():
        network.offsets.copy_(torch.log((true + 0.5) / (false + 0.5)))


def _criterion_figures(
    question: str, labels: Float[Tensor, N], logits: Float[Tensor, N]
) -> local.CriterionCard:
    known = ~labels.isnan()
    truth = (labels[known] == 1).tolist()
    likelihoods = torch.sigmoid(logits[known].double()).tolist()
    auc = rank_auc(truth, likelihoods)
    return local.CriterionCard(
        question=question,
        auc=auc,
        calibration_error=None if auc is None else calibration_error(truth, likelihoods),
        positives=sum(truth),
        negatives=len(truth) - sum(truth),
    )
