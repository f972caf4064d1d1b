"""The preference-trained reward model: network, Bradley-Terry loss, checkpoint and scorer.

The base with a LoRA adapter reads prompt and reply as chat tokens; a linear head (float32, no
bias) turns the final hidden state at the end-of-turn token into one raw reward. Preference
pairs only fix differences of rewards, so zero and scale are set afterwards: mean and standard
deviation of raw rewards on a reference set, stored with the checkpoint. They matter, since
REPO multiplies the reward and has no effect where it is near zero.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft import PeftModel
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repo_ray.config.settings import Config
from repo_ray.models.adapters import adapter_parameters, adapter_tensors, computing
from repo_ray.models.chat import ChatTemplateError, encode_prompt, encode_reply
from repo_ray.models.packing import (
    PackedBatch,
    Tree,
    branches,
    budget_batches,
    pack,
    read_hidden,
    tree_length,
)
from repo_ray.records import Message, Prompt, Score, ScoreDetail
from repo_ray.rewards.tuned import (
    Card,
    CheckpointError,
    load_checkpoint,
    load_merged,
    save_checkpoint,
)

ADAPTER = "reward"
NAME = "reward_model"
FORMAT = "repo_ray.reward_model/1"
#: Raw rewards that differ by less are equal but for rounding: scaled up, they would be noise.
MIN_STD = 1e-6


class RewardModel(nn.Module):
    """Base with a trainable adapter, and the scalar head."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model
        # Small and random: with zeros the adapter would get no gradient in the first step.
        head = torch.randn(model.config.hidden_size) / math.sqrt(model.config.hidden_size)
        self.head = nn.Parameter(head)

    def decoder(self) -> nn.Module:
        """The base without its language-model head."""
        return cast(PreTrainedModel, self.model.get_base_model()).get_decoder()

    def trainable(self) -> list[nn.Parameter]:
        return [*adapter_parameters(self.model, ADAPTER), self.head]

    def forward(self, batch: PackedBatch) -> Float[Tensor, N]:
        """Raw rewards at `batch.reads`."""
        with computing(self.model, ADAPTER):
            hidden = read_hidden(self.decoder(), batch)
        return hidden.float() @ self.head

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores, without the constants."""
        return {"head": self.head, **adapter_tensors(self.model, ADAPTER)}


def bradley_terry_loss(chosen: Float[Tensor, P], rejected: Float[Tensor, P]) -> Float[Tensor, P]:
    """-log P(chosen > rejected) = -log sigmoid(r_c - r_r) per pair (Bradley and Terry 1952;
    Ouyang et al. 2022, arXiv 2203.02155, eq. 1).

    There is no term that pulls rewards to zero during training: centring is done exactly, once,
    by the constants of the checkpoint.
    """
    return -F.logsigmoid(chosen - rejected)


def pair_tree(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    replies: Sequence[str],
    *,
    thinking: bool,
) -> Tree:
    """One prompt with one or several replies, each read at its end-of-turn token."""
    prefix = encode_prompt(tokenizer, messages, thinking=thinking)
    return branches(prefix, [encode_reply(tokenizer, reply) for reply in replies])


# --- checkpoint ------------------------------------------------------------------------


class Heldout(BaseModel):
    """How the reward model does on preference pairs it was not trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: int
    accuracy: float
    calibration_error: float
    accuracy_by_defect: dict[str, float]
    pairs_by_defect: dict[str, int]


class RewardModelCard(Card):
    """`reward_model.json`. `reference` names the rows that mean and std were taken from."""

    thinking: bool
    train_pairs: int
    steps: int
    seconds: float
    reference: str
    reference_replies: int
    heldout: Heldout | None


def save_reward_model(
    folder: Path, model: RewardModel, mean: float, std: float, card: RewardModelCard
) -> None:
    """Writes a checkpoint. Raises ValueError where the constants are unusable."""
    if not _usable(mean, std):
        raise ValueError(
            f"reward model constants: mean {mean}, std {std}; std must be above {MIN_STD:g}"
        )
    constants = {"constants.mean": torch.tensor([mean]), "constants.std": torch.tensor([std])}
    save_checkpoint(folder, NAME, {**model.tensors(), **constants}, card)


def _usable(mean: float, std: float) -> bool:
    return math.isfinite(mean) and math.isfinite(std) and std > MIN_STD


# --- scoring ---------------------------------------------------------------------------


class RewardModelScorer:
    """Scores replies with a trained reward model, its adapter merged into the base.

    `model_folder`: where the base lies; None: resolved from its path in the checkpoint.

    Raises:
        CheckpointError: no checkpoint in `folder`, constants missing, or another base model.
    """

    def __init__(
        self, folder: Path, config: Config, threads: int, model_folder: Path | None = None
    ) -> None:
        torch.set_num_threads(threads)
        tensors, self.card = load_checkpoint(folder, NAME, RewardModelCard, FORMAT)
        for key in ("constants.mean", "constants.std", "head"):
            if key not in tensors:
                raise CheckpointError(
                    f"{folder / NAME}.safetensors: no {key}; "
                    "the reward model must be trained to the end, which sets its zero and scale"
                )
        self.mean = float(tensors["constants.mean"])
        self.std = float(tensors["constants.std"])
        if not _usable(self.mean, self.std):
            raise CheckpointError(
                f"{folder / NAME}.safetensors: mean {self.mean}, std {self.std} are unusable"
            )
        self._model, self._tokenizer = load_merged(folder, tensors, self.card.base, model_folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        nn.Module.to(self._model, self._device)
        self._head = tensors["head"].to(self._device)
        self._limit = self._model.config.max_position_embeddings
        self._budget = config.reward_model.batch_tokens

    def score(self, batch: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score per (prompt, reply): `(raw - mean) / std`, and the raw reward as detail.

        A sample that cannot be scored (too long, not in the chat template's form, a
        non-finite reward) gets an invalid score; the others are not affected.
        """
        started = time.perf_counter()
        trees: list[Tree] = []
        errors: dict[int, str] = {}
        for index, (prompt, reply) in enumerate(batch):
            try:
                tree = pair_tree(
                    self._tokenizer, prompt.messages, [reply], thinking=self.card.thinking
                )
            except ChatTemplateError as error:
                tree, errors[index] = [], f"chat_template: {error}"
            if (length := tree_length(tree)) > self._limit:
                errors[index] = f"too_long: {length} tokens, the model takes {self._limit}"
            trees.append(tree)
        usable = [i for i in range(len(batch)) if i not in errors]
        raw: dict[int, float] = {}
        for rows in budget_batches([tree_length(trees[i]) for i in usable], self._budget):
            indices = [usable[row] for row in rows]
            values = self._raw([trees[i] for i in indices])
            raw.update(zip(indices, values, strict=True))
        latency = (time.perf_counter() - started) / max(len(batch), 1)
        return [
            Score.invalid("reward_model", errors[i], latency)
            if i in errors
            else self._normalised(raw[i], latency)
            for i in range(len(batch))
        ]

    def _raw(self, trees: Sequence[Tree]) -> list[float]:
        packed = pack(trees, self._device)
        with torch.inference_mode():
            hidden = read_hidden(self._model.get_decoder(), packed)
            return (hidden.float() @ self._head).tolist()

    def _normalised(self, raw: float, latency: float) -> Score:
        if not math.isfinite(raw):
            return Score.invalid("reward_model", f"non_finite: the raw reward is {raw}", latency)
        detail = {"raw": ScoreDetail(raw, "before centring and scaling")}
        return Score("reward_model", (raw - self.mean) / self.std, detail, latency)
