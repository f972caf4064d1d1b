"""Settings of the three reward sources and of what makes one reward of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from repo_ray.config.base import Fraction, NonNegative, Positive, PositiveFloat, Settings
from repo_ray.config.pool import PoolConfig


class RewardModelConfig(Settings):
    """The preference-trained reward model."""

    enabled: bool = Field(True, description="Off: R_model is 1 for every reply.")
    checkpoint: Path | None = Field(
        None, description="Folder written by jobs/train_reward_model.py; null: trained first."
    )
    pool: PoolConfig = PoolConfig(cpus=0.5, threads=2, max_in_flight=64)
    batch_tokens: Positive = Field(
        8192, description="Tokens per forward pass of the dynamic batch."
    )
    max_wait_ms: NonNegative = Field(
        20, description="How long the first request of a batch waits for company."
    )


class JudgeConfig(Settings):
    """The LLM judge."""

    enabled: bool = Field(True, description="Off: E_judge is 0.")
    kind: Literal["local", "endpoint"] = Field(
        "local",
        description="`local`: the base model with a tuned judge adapter, no key needed; `endpoint`: any OpenAI-compatible server.",
    )
    rubric: Path | None = Field(
        None, description="YAML rubric; null: the built-in negotiation rubric."
    )
    checkpoint: Path | None = Field(
        None, description="Folder written by jobs/train_judge.py (local); null: trained first."
    )
    base_url: str = Field("", description="Endpoint URL, for example http://judge:8000/v1.")
    model: str = Field("", description="Model name at the endpoint.")
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key; the key itself never enters a config.",
    )
    request_timeout_s: PositiveFloat = Field(60.0, description="Limit of one endpoint request.")
    max_retries: NonNegative = Field(
        4,
        description="Retries of a request (time-out, 429, 5xx, malformed answer) before the score is invalid.",
    )
    min_auc: Fraction = Field(
        0.65,
        description="Local judge: a criterion with a lower held-out AUC is switched off, visibly.",
    )
    pool: PoolConfig = PoolConfig(cpus=0.5, threads=2, max_in_flight=32)

    @model_validator(mode="after")
    def _endpoint(self) -> JudgeConfig:
        if self.kind == "endpoint" and self.enabled and not (self.base_url and self.model):
            raise ValueError("judge.kind is endpoint: judge.base_url and judge.model must be set")
        if self.kind == "local" and (self.base_url or self.model):
            raise ValueError(
                "judge.base_url and judge.model have no effect when judge.kind is local"
            )
        if self.kind == "endpoint" and self.checkpoint is not None:
            raise ValueError("judge.checkpoint has no effect when judge.kind is endpoint")
        return self


class RulesConfig(Settings):
    """The programmatic reward functions."""

    enabled: bool = Field(True, description="Off: E_func is 0.")
    path: Path | None = Field(
        None, description="YAML list of rules with points; null: the built-in negotiation rules."
    )
    time_limit_s: PositiveFloat = Field(
        2.0, description="Limit for one reply's rules; a rule that hangs is killed and named."
    )
    pool: PoolConfig = PoolConfig(cpus=0.25, threads=1, max_in_flight=8, timeout_s=30.0)


class EnhancementConfig(Settings):
    """How the three sources become one reward."""

    combine: Literal["repo", "weighted_sum", "normalised_sum", "rule_gated"] = Field(
        "repo", description="`repo` is the paper's R·(1 ± E/n); the others are for comparison."
    )
    n: PositiveFloat = Field(100.0, description="Clip and scale of E_enh (paper: 100).")
