"""The network of the local judge: yes/no likelihoods of several questions in one forward pass.

The base with a LoRA adapter reads a transcript, the reply to be judged, and one branch per
criterion, `Q: <question> A:`. The likelihood that a criterion applies is the softmax over the
logits of the answers ` yes` and ` no` at the end of the branch, that is
`sigmoid(logit_yes - logit_no)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repo_ray.models.adapters import adapter_parameters, adapter_tensors, computing
from repo_ray.models.chat import encode_text
from repo_ray.models.packing import PackedBatch, Segment, Tree, read_hidden
from repo_ray.records import Message

ADAPTER = "judge"
_FENCE = '"""'
_NAMES = {"system": "Task", "user": "Other side", "assistant": "Agent"}


class JudgeModel(nn.Module):
    """Base with a trainable adapter, and per criterion the direction that answers it.

    Every direction starts as the language-model head's row of ` yes` minus that of ` no`, with no
    offset, so that an untrained judge is the base itself. From there each is tuned apart (float32).
    """

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, criteria: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.criteria = tuple(criteria)
        start = answer_direction(cast(PreTrainedModel, model.get_base_model()), tokenizer)
        self.directions = nn.Parameter(start.repeat(len(self.criteria), 1))
        self.offsets = nn.Parameter(torch.zeros(len(self.criteria), device=start.device))

    def decoder(self) -> nn.Module:
        """The base without its language-model head."""
        return cast(PreTrainedModel, self.model.get_base_model()).get_decoder()

    def trainable(self) -> list[nn.Parameter]:
        return [*adapter_parameters(self.model, ADAPTER), self.directions, self.offsets]

    def forward(self, batch: PackedBatch, criteria: Int[Tensor, N]) -> Float[Tensor, N]:
        """logit(yes) - logit(no) at `batch.reads`; `criteria` indexes `self.criteria`."""
        with computing(self.model, ADAPTER):
            hidden = read_hidden(self.decoder(), batch)
        return answer_logits(hidden, self.directions[criteria], self.offsets[criteria])

    def tensors(self) -> dict[str, Tensor]:
        tensors = adapter_tensors(self.model, ADAPTER)
        for index, criterion in enumerate(self.criteria):
            tensors[f"direction.{criterion}"] = self.directions[index]
            tensors[f"offset.{criterion}"] = self.offsets[index : index + 1]
        return tensors


def answer_logits(
    hidden: Float[Tensor, "N D"], directions: Float[Tensor, "N D"], offsets: Float[Tensor, N]
) -> Float[Tensor, N]:
    """logit(yes) - logit(no) per question, float32."""
    return (hidden.float() * directions).sum(-1) + offsets


def answer_direction(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Float[Tensor, D]:
    """Head row of ` yes` minus head row of ` no`, float32.

    Raises:
        ValueError: the tokenizer has no single token for one of the two.
    """
    rows = []
    for word in (" yes", " no"):
        ids = encode_text(tokenizer, word)
        if len(ids) != 1:
            raise ValueError(f"{tokenizer.name_or_path}: {word!r} is {len(ids)} tokens, not one")
        weight = cast(Tensor, model.get_output_embeddings().weight)
        rows.append(weight[ids[0]].detach().float())
    return rows[0] - rows[1]


def judge_tree(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    replies: Sequence[tuple[str, Mapping[str, str]]],
) -> Tree:
    """One conversation, one or several replies to it, and under each its questions.

    `replies` are (text, questions by criterion id). Questions are read in the order given.
    All content is fenced and neutralised: neither control tokens nor the fence can be faked.
    """
    lines = [f"{_NAMES[m.role]}: {_fenced(m.content)}" for m in messages]
    tree = [Segment(encode_text(tokenizer, "\n".join(lines)))]
    for reply, questions in replies:
        parent = len(tree)
        tree.append(Segment(encode_text(tokenizer, f"\nReply: {_fenced(reply)}"), parent=0))
        tree.extend(
            Segment(encode_text(tokenizer, f"\nQ: {question} A:"), parent=parent, read=True)
            for question in questions.values()
        )
    return tree


def _fenced(text: str) -> str:
    return _FENCE + text.strip().replace(_FENCE, "'''") + _FENCE
