"""Supervised fine-tuning of the policy adapter on demonstrations: the warm start, and SFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repo_ray.config.settings import Config
from repo_ray.config.supervised import SupervisedConfig
from repo_ray.data.examples import Demonstration
from repo_ray.data.selection import chosen_rows
from repo_ray.learner.fitting import Objective, Progress, evaluate, fit
from repo_ray.learner.preparation import adapted, write_policy
from repo_ray.learner.reply_logprobs import ReplyLogprobs
from repo_ray.models.actor_critic import POLICY, PromptReply, SequenceBatch
from repo_ray.models.adapters import adapter_parameters
from repo_ray.models.chat import encode_prompt, encode_reply


@dataclass(frozen=True)
class SftResult:
    """`adapter`: the blob (see `models.adapters`). `rows` is how many demonstrations there were,
    `rows_seen` how often one was trained on, `tokens` the positions run forward and backward.
    """

    adapter: Path
    rows: int
    rows_seen: int
    steps: int
    seconds: float
    tokens: int
    train_loss: float
    heldout_loss: float | None


def train_sft(
    config: Config,
    stage: SupervisedConfig,
    model_folder: Path,
    rows: Sequence[Demonstration],
    out_dir: Path,
    progress: Progress | None = None,
    start: Path | None = None,
) -> SftResult:
    """Tunes the policy adapter on demonstrations with the settings of `stage` (`warm_start` or
    `sft` of the config); loss on reply tokens only.

    It continues from the adapter blob `start`, or from the bare base. Writes
    `adapter.safetensors`. Raises `TrainingError` without rows and where `start` does not fit.
    """
    tokenizer, model = adapted(config, model_folder, POLICY, stage, whole=True, start=start)

    def encoded(rows: Sequence[Demonstration]) -> list[PromptReply]:
        return [
            PromptReply(
                encode_prompt(tokenizer, row.prompt.messages, thinking=config.model.thinking),
                encode_reply(tokenizer, row.reply),
            )
            for row in rows
        ]

    def loss(
        forward: Callable[..., Tensor], items: Sequence[PromptReply]
    ) -> tuple[Tensor, dict[str, float]]:
        return -forward(SequenceBatch.of(items, model.device)).sum(), {}

    train, heldout = chosen_rows(rows, stage, config.run.seed)
    objective = Objective(
        ReplyLogprobs(model, config.learner.logprob_chunk),
        [p for p in adapter_parameters(model, POLICY) if p.requires_grad],
        rows=lambda _: 1,
        length=lambda item: len(item.prompt_token_ids) + len(item.token_ids),
        units=lambda item: len(item.token_ids),
        loss=loss,
    )
    fitted = fit(objective, encoded(train), stage, config, progress)
    return SftResult(
        adapter=write_policy(out_dir, model),
        rows=len(train),
        rows_seen=fitted.rows,
        steps=fitted.steps,
        seconds=fitted.seconds,
        tokens=fitted.tokens,
        train_loss=fitted.metrics["loss"],
        heldout_loss=evaluate(objective, encoded(heldout), config)["loss"] if heldout else None,
    )
