"""Settings of the algorithm and of the learner that runs it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from repo_ray.config.base import (
    Fraction,
    Labels,
    NonNegative,
    Positive,
    PositiveFloat,
    Settings,
)


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
        description="Denominator of the PPO ratio: the engine's log-probs, or a proximal forward with importance weight capped at 2. The default is plain PPO, with one forward less.",
    )
    ppo_epochs: Positive = Field(
        1, description="Passes over each batch; one keeps the update on-policy."
    )
    minibatches: Positive = Field(
        1, description="Optimizer steps per pass; one, for the same reason."
    )
    whiten_advantages: bool = Field(
        True,
        description="Zero mean, unit variance over the batch's response tokens, so that the step does not depend on the reward's scale (as in the code of Ziegler 2019).",
    )
    entropy_coef: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Unstated in the paper, so off."
    )
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

    world_size: Positive = Field(
        1,
        description="Learner ranks (GPUs, or CPU processes); one is enough where the base fits on one.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2,
        description="DeepSpeed ZeRO stage; 2 shards gradients and optimizer states and communicates no more than plain data parallelism (Rajbhandari 2020); 3 shards the frozen base too, for one that does not fit on a GPU.",
    )
    cpus: Annotated[float, Field(ge=0)] = Field(1.0, description="CPUs reserved per rank.")
    gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs reserved per rank.")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources per rank, for placement."
    )
    labels: Labels = Field(
        default_factory=dict,
        description="Labels that the node of every rank must have; the supervised stages go there too. Empty: any node.",
    )
    threads: Positive = Field(2, description="Torch threads per rank.")
    timeout_s: PositiveFloat = Field(
        1800.0,
        description="Limit of one update; far beyond a slow one, so that only a hang reaches it.",
    )
    policy_lr: PositiveFloat = Field(
        1e-6, description="Paper: 1e-6 (32B); small models need 1e-4 to 3e-4."
    )
    value_lr: PositiveFloat = Field(
        1e-5,
        description="Unstated; the value network starts from nothing, so ten times the policy's.",
    )
    policy_max_grad_norm: PositiveFloat = Field(
        1.0,
        description="Clipped on its own: a global norm would let the value loss throttle the policy. 1 is the default of transformers' Trainer.",
    )
    value_max_grad_norm: PositiveFloat = Field(
        1.0, description="As above, for value adapter and head."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Unstated; off: it would pull the adapter towards the base."
    )
    warmup_steps: NonNegative = Field(2, description="Linear warm-up (paper: 2).")
    micro_batch_tokens: Positive = Field(
        4096,
        description="Padded tokens per forward and backward pass: bounds the memory for activations, whatever the lengths.",
    )
    logprob_chunk: Positive = Field(
        512,
        description="Tokens whose vocabulary logits exist at one time: bounds memory, 0.3 GB in float32 for a vocabulary of 152,000.",
    )
    compile: bool = Field(
        False,
        description="torch.compile the layers: an update takes a fifth less; the first one took 24 s, 16 s in a later process, which finds torch's cache (SmolLM2-135M, two cores). Needs a C++ compiler on the CPU. A resumed run is the same bit for bit only where the compiled code is. Not with ZeRO-3, which gathers weights in between.",
    )

    @model_validator(mode="after")
    def _compiled(self) -> LearnerConfig:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "learner.compile does not work with learner.zero_stage 3: it gathers weights between layers"
            )
        return self
