"""Direct preference optimisation of the policy adapter on preference pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from repo_ray.algorithms.dpo import dpo_loss
from repo_ray.config.settings import Config
from repo_ray.data.examples import Preference
from repo_ray.data.selection import chosen_rows
from repo_ray.learner.fitting import Objective, Progress, TrainingError, evaluate, fit
from repo_ray.learner.preparation import adapted, write_policy
from repo_ray.learner.reply_logprobs import ReplyLogprobs
from repo_ray.models.actor_critic import POLICY, PromptReply, SequenceBatch
from repo_ray.models.adapters import adapter_parameters
from repo_ray.models.chat import encode_prompt, encode_reply
from repo_ray.models.packing import budget_batches


@dataclass(frozen=True)
class DpoResult:
    """`adapter`: the blob (see `models.adapters`). `rows` is how many pairs there were,
    `rows_seen` how often one was trained on, `tokens` the positions run forward and backward,
    `reference_tokens` those run forward alone, before training. `train` and `heldout` are means
    per pair, of the last epoch and after training: `loss`, `accuracy` of the implicit reward,
    its `margin` (chosen less rejected) and `chosen_reward`.
    """

    adapter: Path
    rows: int
    rows_seen: int
    steps: int
    seconds: float
    tokens: int
    reference_tokens: int
    train: Mapping[str, float]
    heldout: Mapping[str, float] | None


@dataclass(frozen=True)
class _Pair:
    """A prompt with its chosen and its rejected reply, and both replies' log-probabilities [2]
    under the reference."""

    replies: tuple[PromptReply, PromptReply]
    reference: Float[Tensor, 2]


def train_dpo(
    config: Config,
    model_folder: Path,
    pairs: Sequence[Preference],
    out_dir: Path,
    progress: Progress | None = None,
    start: Path | None = None,
) -> DpoResult:
    """Tunes the policy adapter on preference pairs (`config.dpo`, `algorithms.dpo`).

    The policy starts at the adapter blob `start`, or at the bare base, and where it starts is
    the reference: its log-probabilities are computed once, before training, so that there is no
    second model. The two replies of a pair share their prompt's computation. Writes
    `adapter.safetensors`. Raises `TrainingError` without pairs and where `start` does not fit.
    """
    began = time.perf_counter()
    stage = config.dpo
    tokenizer, model = adapted(config, model_folder, POLICY, stage, whole=True, start=start)
    network = ReplyLogprobs(model, config.learner.logprob_chunk)

    def replies(row: Preference) -> tuple[PromptReply, PromptReply]:
        prompt = encode_prompt(tokenizer, row.prompt.messages, thinking=config.model.thinking)
        chosen, rejected = (encode_reply(tokenizer, text) for text in (row.chosen, row.rejected))
        return PromptReply(prompt, chosen), PromptReply(prompt, rejected)

    def logprobs(
        forward: Callable[..., Tensor], pairs: Sequence[tuple[PromptReply, PromptReply]]
    ) -> Float[Tensor, "N 2"]:
        both = [reply for pair in pairs for reply in pair]
        found = forward(SequenceBatch.of(both, model.device)).split(
            [len(r.token_ids) for r in both]
        )
        return torch.stack([each.sum() for each in found]).view(-1, 2)

    def with_reference(rows: Sequence[Preference]) -> list[_Pair]:
        pairs = [replies(row) for row in rows]
        reference = torch.empty(len(pairs), 2)
        lengths = [_tokens(pair) for pair in pairs]
        with torch.inference_mode():
            for batch in budget_batches(lengths, config.learner.micro_batch_tokens):
                reference[list(batch)] = logprobs(network, [pairs[i] for i in batch]).cpu()
        return [_Pair(p, r) for p, r in zip(pairs, reference, strict=True)]

    def loss(
        forward: Callable[..., Tensor], items: Sequence[_Pair]
    ) -> tuple[Tensor, dict[str, float]]:
        chosen, rejected = logprobs(forward, [item.replies for item in items]).unbind(1)
        reference = torch.stack([item.reference for item in items]).to(chosen.device)
        was_chosen, was_rejected = reference.unbind(1)
        result = dpo_loss(chosen, rejected, was_chosen, was_rejected, stage.beta)
        return result.loss.sum(), {
            "accuracy": float(result.right.sum()),
            "margin": float(result.margins.sum()),
            "chosen_reward": float(result.chosen_rewards.sum()),
        }

    train, heldout = chosen_rows(pairs, stage, config.run.seed)
    if not train:
        raise TrainingError("no training pairs")
    items, held = with_reference(train), with_reference(heldout)
    prepared = time.perf_counter() - began
    objective = Objective(
        network,
        [p for p in adapter_parameters(model, POLICY) if p.requires_grad],
        rows=lambda _: 1,
        length=lambda item: _tokens(item.replies),
        units=lambda _: 1,
        loss=loss,
    )
    fitted = fit(objective, items, stage, config, progress)
    return DpoResult(
        adapter=write_policy(out_dir, model),
        rows=len(train),
        rows_seen=fitted.rows,
        steps=fitted.steps,
        seconds=prepared + fitted.seconds,
        tokens=fitted.tokens,
        reference_tokens=sum(_tokens(item.replies) for item in [*items, *held]),
        train=fitted.metrics,
        heldout=evaluate(objective, held, config) if held else None,
    )


def _tokens(pair: tuple[PromptReply, PromptReply]) -> int:
    """The prompt's once."""
    chosen, rejected = pair
    return len(chosen.prompt_token_ids) + len(chosen.token_ids) + len(rejected.token_ids)
