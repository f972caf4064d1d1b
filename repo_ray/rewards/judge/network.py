"""The network of the local judge: the likelihood of every criterion in one forward pass.

The base with a LoRA adapter reads a transcript and the reply to be judged. At the reply's last
token one linear answer per criterion (float32) gives logit(yes) - logit(no), so that the
likelihood that the criterion holds is the softmax over yes and no, `sigmoid` of that.

The network does not read the criteria's wording, and so knows those it was tuned on and no
others. Asking it in words (a question per criterion, read at the tokens ` yes` and ` no`) was
tried: for the same computing time the small model learned far less (median held-out AUC 0.66
to 0.76 against 0.87), and scoring took twice as long.

A reply may hold text that is meant for the judge. The network is read after every sentence as
well, where one more answer says whether that sentence talks to the judge: whoever judges leaves
such sentences out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repo_ray.models.adapters import adapter_parameters, adapter_tensors, computing
from repo_ray.models.chat import encode_text
from repo_ray.models.packing import PackedBatch, Segment, Tree, read_hidden
from repo_ray.records import Message
from repo_ray.rewards.judge.injections import sentences

ADAPTER = "judge"
#: The answer to whether a sentence talks to the judge. No criterion can have this name.
ADDRESSED = "#addressed"
_FENCE = '"""'
_NAMES = {"system": "Task", "user": "Other side", "assistant": "Agent"}


class JudgeModel(nn.Module):
    """Base with a trainable adapter, one answer per criterion and, last, `ADDRESSED`."""

    def __init__(self, model: PeftModel, criteria: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.answers = (*criteria, ADDRESSED)
        size = model.config.hidden_size
        # Small and random: with zeros the adapter would get no gradient in the first step.
        self.directions = nn.Parameter(torch.randn(len(self.answers), size) / math.sqrt(size))
        self.offsets = nn.Parameter(torch.zeros(len(self.answers)))

    def decoder(self) -> nn.Module:
        """The base without its language-model head."""
        return cast(PreTrainedModel, self.model.get_base_model()).get_decoder()

    def trainable(self) -> list[nn.Parameter]:
        return [*adapter_parameters(self.model, ADAPTER), self.directions, self.offsets]

    def forward(self, batch: PackedBatch) -> Float[Tensor, "N A"]:
        """logit(yes) - logit(no) of every answer at `batch.reads` (see `judge_tree`)."""
        with computing(self.model, ADAPTER):
            hidden = read_hidden(self.decoder(), batch)
        return hidden.float() @ self.directions.T + self.offsets

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores: the adapter, and each answer's direction and offset."""
        tensors = adapter_tensors(self.model, ADAPTER)
        for index, answer in enumerate(self.answers):
            tensors[f"direction.{answer}"] = self.directions[index]
            tensors[f"offset.{answer}"] = self.offsets[index : index + 1]
        return tensors


def judge_loss(
    logits: Float[Tensor, "N C"], labels: Float[Tensor, "N C"], groups: Int[Tensor, N]
) -> Float[Tensor, ""]:
    """Sum over replies and criteria of binary cross-entropy, plus a ranking term.

    `labels` is 1 (holds), 0 or NaN (no label). `groups` numbers the conversations. The ranking
    term is -log sigmoid(l_i - l_j) over replies i, j to the same conversation of which a
    criterion holds for i alone (RankNet, Burges et al. 2005), averaged over such pairs and given
    the weight of all labels together. What two replies have in common cancels in it, so it
    teaches what makes the difference; the cross-entropy alone first learns how common each
    criterion is, and keeps the likelihoods calibrated.
    """
    known = ~labels.isnan()
    target = labels.nan_to_num()
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")[known].sum()
    same = (groups[:, None] == groups[None])[:, :, None]
    pairs = same & (labels[:, None] == 1) & (labels[None] == 0)
    if not pairs.any():
        return entropy
    difference = logits[:, None] - logits[None]
    return entropy - logsigmoid(difference[pairs]).mean() * known.sum()


def judge_tree(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], replies: Sequence[str]
) -> Tree:
    """One conversation with one or several replies, each read after every sentence and at its end.

    All content is fenced and neutralised: neither control tokens nor the fence can be faked.
    """
    lines = [f"{_NAMES[m.role]}: {_FENCE}{_unfenced(m.content)}{_FENCE}" for m in messages]
    tree = [Segment(encode_text(tokenizer, "\n".join(lines)))]
    for reply in replies:
        parent = 0
        first, *others = reply_sentences(reply)
        for text in (f"\nReply: {_FENCE}{first}", *others, _FENCE):
            tree.append(Segment(encode_text(tokenizer, text), parent, read=True))
            parent = len(tree) - 1
    return tree


def reply_sentences(reply: str) -> list[str]:
    """The sentences of a reply as `judge_tree` reads it."""
    return sentences(_unfenced(reply))


def reply_ends(tree: Tree) -> list[bool]:
    """Of each read of the tree, whether it is at a reply's end."""
    parents = {segment.parent for segment in tree}
    return [i not in parents for i, segment in enumerate(tree) if segment.read]


def _unfenced(text: str) -> str:
    return text.strip().replace(_FENCE, "'''")
