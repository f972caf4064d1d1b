"""Settings of the three reward sources and of what makes one reward of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from repo_ray.config.base import (
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Settings,
    check_url,
)
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


#: Settings of `judge` that are about an endpoint that costs.
_PAID = (
    "requests_per_minute",
    "tokens_per_minute",
    "price_per_million_input_tokens",
    "price_per_million_output_tokens",
    "max_spend",
    "cache",
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
    requests_per_minute: Positive | None = Field(
        None,
        description="Most endpoint requests in any minute, over all judge actors, retries included; null: no limit. Requests wait for their turn; more actors do not help then.",
    )
    tokens_per_minute: Positive | None = Field(
        None,
        description="Most tokens in any minute, prompts and answers together; null: no limit. A request counts as a quarter of its bytes and the longest answer until its answer says what it used.",
    )
    price_per_million_input_tokens: PositiveFloat | None = Field(
        None, description="Price of a million prompt tokens, in any currency; null: not counted."
    )
    price_per_million_output_tokens: PositiveFloat | None = Field(
        None, description="Price of a million answer tokens, in the same currency."
    )
    max_spend: PositiveFloat | None = Field(
        None,
        description="Most that a run may spend, resumes included, in the currency of the prices; then it stops with a checkpoint, and --resume with a larger value continues. null: no limit.",
    )
    cache: bool = Field(
        False,
        description="Answer a question that was asked before from memory: at temperature 0 a repeat is the same question. Kept in the run folder.",
    )
    pool: PoolConfig = PoolConfig(cpus=0.5, threads=2, max_in_flight=32)

    @model_validator(mode="after")
    def _endpoint(self) -> JudgeConfig:
        if self.kind == "endpoint" and self.enabled and not (self.base_url and self.model):
            raise ValueError("judge.kind is endpoint: judge.base_url and judge.model must be set")
        if self.base_url:
            check_url("judge.base_url", self.base_url, "http://judge:8000/v1")
        if self.kind == "local" and (self.base_url or self.model):
            raise ValueError(
                "judge.base_url and judge.model have no effect when judge.kind is local"
            )
        if self.kind == "endpoint" and self.checkpoint is not None:
            raise ValueError("judge.checkpoint has no effect when judge.kind is endpoint")
        return self

    @model_validator(mode="after")
    def _paid(self) -> JudgeConfig:
        if self.kind == "local" and self.budgeted:
            keys = ", ".join(f"judge.{key}" for key in _PAID if getattr(self, key))
            raise ValueError(f"{keys}: no effect when judge.kind is local")
        prices = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        if any(prices) and not all(prices):
            raise ValueError(
                "judge.price_per_million_input_tokens and judge.price_per_million_output_tokens "
                "must be set together"
            )
        if self.max_spend is not None and not any(prices):
            raise ValueError(
                "judge.max_spend needs judge.price_per_million_input_tokens and "
                "judge.price_per_million_output_tokens"
            )
        return self

    @property
    def budgeted(self) -> bool:
        """Whether anything must be counted or kept over all judge actors."""
        return any(getattr(self, key) for key in _PAID)

    @property
    def limited(self) -> bool:
        """Whether a request may have to wait for its turn."""
        return any((self.requests_per_minute, self.tokens_per_minute, self.max_spend))


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
