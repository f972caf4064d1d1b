"""The embedded judge: the base model with a tuned adapter, no endpoint and no key.

It gives the likelihood of every criterion of the rubric and no evidence text. It knows only the
criteria it was tuned on, and each of them only as well as its held-out AUC says: those below
the limit are switched off, visibly. Sentences of a reply that talk to the judge instead of the
other side are left out before it is judged, and named in the score.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from repo_ray.config.settings import Config
from repo_ray.models.packing import (
    Tree,
    budget_batches,
    pack,
    read_hidden,
    tree_length,
)
from repo_ray.records import Prompt, Score
from repo_ray.rewards.judge.network import (
    ADDRESSED,
    JudgeModel,
    judge_tree,
    reply_sentences,
)
from repo_ray.rewards.judge.rubric import Rubric
from repo_ray.rewards.tuned import (
    Card,
    CheckpointError,
    load_checkpoint,
    load_merged,
    save_checkpoint,
)

NAME = "judge"
FORMAT = "repo_ray.judge/2"
#: A sentence more likely than this to talk to the judge is left out. Lower than one half: what is
#: left out by mistake costs one sentence of a reply, what is missed may cost the verdict.
TALKS = 0.3

log = logging.getLogger(__name__)


class CriterionCard(BaseModel):
    """One criterion as tuned: its wording, and held-out figures.

    `auc` and `calibration_error` are None where the held-out labels are all the same (or none).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    auc: float | None
    calibration_error: float | None
    positives: int
    negatives: int


class JudgeCard(Card):
    """`judge.json`."""

    criteria: dict[str, CriterionCard]
    rubric_digest: str
    train_verdicts: int
    steps: int
    seconds: float


def save_judge(folder: Path, model: JudgeModel, card: JudgeCard) -> None:
    """Writes a checkpoint."""
    save_checkpoint(folder, NAME, model.tensors(), card)


class LocalJudge:
    """Scores replies against a rubric; `disabled` names the criteria that are switched off.

    Criteria with a held-out AUC below `config.judge.min_auc`, or with none, are switched off.
    `model_folder`: where the base lies; None: resolved from its path in the checkpoint.

    Raises:
        CheckpointError: no checkpoint in `folder`, another base model, or a rubric with criteria
            that the checkpoint was not trained on.
    """

    def __init__(
        self,
        folder: Path,
        rubric: Rubric,
        config: Config,
        threads: int,
        model_folder: Path | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        tensors, self.card = load_checkpoint(folder, NAME, JudgeCard, FORMAT)
        _check_trained(folder, rubric, self.card)
        min_auc = config.judge.min_auc
        self.disabled: Mapping[str, str] = {
            c.criterion_id: _weakness(self.card.criteria[c.criterion_id].auc, min_auc)
            for c in rubric.criteria
            if _weak(self.card.criteria[c.criterion_id].auc, min_auc)
        }
        for criterion, reason in self.disabled.items():
            log.warning("judge: criterion %s is switched off: %s", criterion, reason)
        self._rubric = rubric.only(set(rubric.ids) - set(self.disabled))
        self._model, self._tokenizer = load_merged(folder, tensors, self.card.base, model_folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        nn.Module.to(self._model, self._device)
        self._directions, self._offsets = self._answers(folder, tensors)
        self._limit = self._model.config.max_position_embeddings
        self._budget = config.reward_model.batch_tokens

    def _answers(self, folder: Path, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Directions [A, D] and offsets [A] of the criteria in use and, last, of `ADDRESSED`."""
        missing = [
            key
            for c in (*self._rubric.ids, ADDRESSED)
            for key in (f"direction.{c}", f"offset.{c}")
            if key not in tensors
        ]
        if missing:
            raise CheckpointError(f"{folder / NAME}.safetensors: no {', '.join(missing)}")
        answers = (*self._rubric.ids, ADDRESSED)
        directions = [tensors[f"direction.{a}"] for a in answers]
        offsets = [tensors[f"offset.{a}"] for a in answers]
        return torch.stack(directions).to(self._device), torch.cat(offsets).to(self._device)

    def score(self, batch: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score per (prompt, reply): expected points, with a likelihood per criterion.

        A sample that cannot be judged (too long, a non-finite likelihood, no criterion left) gets
        an invalid score; the others are not affected.
        """
        if not self._rubric.ids:
            return [
                Score.invalid("judge", "no_criteria: every criterion is switched off")
                for _ in batch
            ]
        started = time.perf_counter()
        trees = [judge_tree(self._tokenizer, prompt.messages, [reply]) for prompt, reply in batch]
        lengths = [tree_length(tree) for tree in trees]
        usable = [i for i, length in enumerate(lengths) if length <= self._limit]
        read = dict(zip(usable, self._read([trees[i] for i in usable]), strict=True))
        left_out: dict[int, str] = {}
        kept: dict[int, str] = {}
        for i, (_, talks) in read.items():
            if max(talks) > TALKS:
                parts = list(zip(reply_sentences(batch[i][1]), talks, strict=True))
                left_out[i] = "".join(text for text, p in parts if p > TALKS)
                kept[i] = "".join(text for text, p in parts if p <= TALKS)
        again = [judge_tree(self._tokenizer, batch[i][0].messages, [kept[i]]) for i in kept]
        read.update(zip(kept, self._read(again), strict=True))
        latency = (time.perf_counter() - started) / max(len(batch), 1)
        return [
            self._scored(read[i][0], left_out.get(i, ""), latency)
            if i in read
            else Score.invalid(
                "judge", f"too_long: {lengths[i]} tokens, the model takes {self._limit}", latency
            )
            for i in range(len(batch))
        ]

    def _read(self, trees: Sequence[Tree]) -> list[tuple[list[float], list[float]]]:
        """Of each tree (one reply): the criteria's likelihoods, and of each sentence the
        likelihood that it talks to the judge."""
        found: list[tuple[list[float], list[float]]] = [([], [])] * len(trees)
        lengths = [tree_length(tree) for tree in trees]
        for indices in budget_batches(lengths, self._budget):
            chosen = [trees[i] for i in indices]
            packed = pack(chosen, self._device)
            with torch.inference_mode():
                hidden = read_hidden(self._model.get_decoder(), packed)
                values = torch.sigmoid(hidden.float() @ self._directions.T + self._offsets)
            reads = [sum(segment.read for segment in tree) for tree in chosen]
            for i, value in zip(indices, values.split(reads), strict=True):
                found[i] = (value[-1, :-1].tolist(), value[:-1, -1].tolist())
        return found

    def _scored(self, likelihoods: list[float], left_out: str, latency: float) -> Score:
        verdicts = dict(zip(self._rubric.ids, likelihoods, strict=True))
        for criterion, likelihood in verdicts.items():
            if not math.isfinite(likelihood):
                return Score.invalid("judge", f"non_finite: criterion {criterion}", latency)
        note = f"left out, as it talks to the judge: {left_out.strip()}" if left_out else ""
        value, detail = self._rubric.points(verdicts, dict.fromkeys(verdicts, note))
        return Score("judge", value, detail, latency)


def _check_trained(folder: Path, rubric: Rubric, card: JudgeCard) -> None:
    unknown = [c for c in rubric.ids if c not in card.criteria]
    reworded = [
        c.criterion_id
        for c in rubric.criteria
        if c.criterion_id in card.criteria and card.criteria[c.criterion_id].question != c.question
    ]
    faults = [
        f"{what}: {', '.join(ids)}"
        for what, ids in (("not trained on", unknown), ("trained on another wording", reworded))
        if ids
    ]
    if faults:
        raise CheckpointError(
            f"{folder}: this judge does not know the rubric's criteria ({'; '.join(faults)}); "
            "train it on verdicts for them, or use an endpoint judge"
        )


def _weak(auc: float | None, min_auc: float) -> bool:
    return auc is None or auc < min_auc


def _weakness(auc: float | None, min_auc: float) -> str:
    if auc is None:
        return "no held-out AUC (its held-out labels are all the same)"
    return f"held-out AUC {auc:.3f} is below {min_auc:.3f}"
