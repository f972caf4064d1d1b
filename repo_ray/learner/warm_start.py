"""Warm start: supervised fine-tuning of the policy adapter on demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.config.settings import Config
from repo_ray.data.examples import Demonstration
from repo_ray.learner.fitting import Objective, Progress, TrainingError, evaluate, fit
from repo_ray.learner.preparation import adapted, chosen_rows
from repo_ray.models.adapters import adapter_parameters, computing, export_adapter
from repo_ray.models.chat import encode_prompt, encode_reply
from repo_ray.models.logprobs import token_logprobs

POLICY = "policy"


@dataclass(frozen=True)
class SftResult:
    """`adapter`: the blob (see `models.adapters`) from which the policy adapter starts."""

    adapter: Path
    rows: int
    steps: int
    seconds: float
    train_loss: float
    heldout_loss: float | None


class ReplyLogprobs(nn.Module):
    """Log-probabilities of reply tokens under base plus policy adapter."""

    def __init__(self, model: PeftModel, chunk: int) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk

    def forward(
        self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"], reply: Int[Tensor, N]
    ) -> Float[Tensor, N]:
        """`reply`: flat indices [B * T] of the reply tokens, each predicted from the one before."""
        base = cast(PreTrainedModel, self.model.get_base_model())
        with computing(self.model, POLICY):
            hidden = base.get_decoder()(
                input_ids=ids, attention_mask=mask, use_cache=False
            ).last_hidden_state
            weight = cast(Tensor, base.get_output_embeddings().weight)
            targets = ids.flatten()[reply]
            return token_logprobs(
                hidden.flatten(0, 1)[reply - 1], weight, targets, 1.0, self.chunk
            )[0]


def train_sft(
    config: Config,
    model_folder: Path,
    rows: Sequence[Demonstration],
    out_dir: Path,
    progress: Progress | None = None,
) -> SftResult:
    """Tunes the policy adapter on demonstrations (`config.warm_start`); loss on reply tokens only.

    Writes `adapter.safetensors`. Raises `TrainingError` without rows or warm-start settings.
    """
    stage = config.warm_start
    if stage is None:
        raise TrainingError("warm_start is null: there is no warm start to train")
    tokenizer, model = adapted(config, model_folder, POLICY, stage, whole=True)
    pad = tokenizer.pad_token_id

    def encoded(rows: Sequence[Demonstration]) -> list[tuple[list[int], list[int]]]:
        return [
            (
                encode_prompt(tokenizer, row.prompt.messages, thinking=config.model.thinking),
                encode_reply(tokenizer, row.reply),
            )
            for row in rows
        ]

    def loss(
        forward: Callable[..., Tensor], items: Sequence[tuple[list[int], list[int]]]
    ) -> tuple[Tensor, dict[str, float]]:
        length = max(len(prompt) + len(reply) for prompt, reply in items)
        ids = torch.full((len(items), length), pad)
        mask = torch.zeros((len(items), length), dtype=torch.long)
        targets: list[int] = []
        for row, (prompt, reply) in enumerate(items):
            size = len(prompt) + len(reply)
            ids[row, :size] = torch.tensor(prompt + reply)
            mask[row, :size] = 1
            targets.extend(range(row * length + len(prompt), row * length + size))
        device = model.device
        logprobs = forward(ids.to(device), mask.to(device), torch.tensor(targets, device=device))
        return -logprobs.sum(), {}

    train, heldout = chosen_rows(rows, stage, config.run.seed)
    objective = Objective(
        ReplyLogprobs(model, config.learner.logprob_chunk),
        [p for p in adapter_parameters(model, POLICY) if p.requires_grad],
        rows=lambda _: 1,
        length=lambda item: len(item[0]) + len(item[1]),
        units=lambda item: len(item[1]),
        loss=loss,
    )
    fitted = fit(objective, encoded(train), stage, config, progress)
    measured = evaluate(objective, encoded(heldout), config)["loss"] if heldout else None
    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / "adapter.safetensors"
    staged = out_dir / ".adapter.safetensors"
    staged.write_bytes(export_adapter(model, POLICY))
    staged.replace(target)
    return SftResult(
        target, len(train), fitted.steps, fitted.seconds, fitted.metrics["loss"], measured
    )
