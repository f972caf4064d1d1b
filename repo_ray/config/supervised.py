"""Settings of the supervised stages: warm start, reward model, judge, SFT and DPO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from repo_ray.config.base import Positive, PositiveFloat, Settings


class SupervisedConfig(Settings):
    """One supervised stage: warm start, SFT, reward model or judge."""

    lr: PositiveFloat = Field(2e-4, description="LoRA on small models: 1e-4 to 3e-4.")
    batch_size: Positive = Field(
        16,
        description="Rows per optimizer step; small, so that a few hundred rows give some tens of steps.",
    )
    epochs: Positive = Field(
        1, description="Passes over the rows; on more, few rows are learned by heart."
    )
    max_rows: Positive | None = Field(
        None,
        description="Use only this many training rows (stated in the report); null: all, as the paper does.",
    )
    max_eval_rows: Positive | None = Field(
        None,
        description="Use only this many held-out rows, where measuring takes too long; null: all.",
    )
    top_layers: Positive | None = Field(
        None,
        description="Train LoRA in this many of the last layers only; the layers below then run forward only, which on CPU is several times cheaper. null: all layers.",
    )


class WarmStartConfig(SupervisedConfig):
    """Supervised fine-tuning of the policy before RL."""

    checkpoint: Path | None = Field(
        None,
        description="Folder of an earlier warm start (models/warm_start of a run); null: trained first.",
    )


class RewardTrainingConfig(SupervisedConfig):
    """The reward model's training on preference pairs."""

    own_samples: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="For this share of the pairs, one more: against the warm start's own sample in the place of the rejected reply, so that the reward model knows the replies it will score. The paper made 1,991 of its 6,632 pairs after the first SFT. 0 where the policy may already write better than the chosen replies.",
    )


class DpoConfig(SupervisedConfig):
    """Direct preference optimisation of the policy on preference pairs, from the warm start."""

    lr: PositiveFloat = Field(
        1e-5,
        description="DPO paper: 1e-6 for all weights; LoRA takes about ten times that (LoRA Without Regret, 2025), small models more.",
    )
    beta: PositiveFloat = Field(
        0.1,
        description="Weight of staying near the reference (Rafailov et al. 2023, arXiv 2305.18290, appendix B).",
    )
