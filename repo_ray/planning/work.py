"""What a training step has to do: tokens, floating-point operations and bytes. No time in here."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from repo_ray.config import Config
from repo_ray.planning.architecture import Architecture
from repo_ray.planning.memory import dtype_bytes

#: Pickled size of what travels, from a quickstart run: a rollout's prompt and reply tokens (ids;
#: ids, masks, versions and log-probs), a token of text, the scores of one reply.
PROMPT_TOKEN, REPLY_TOKEN, TEXT_TOKEN, SCORES = 3, 16, 5, 1000


@dataclass(frozen=True)
class Load:
    """Tokens of a sample: means of prompt and reply, and the longest reply of a batch."""

    prompt: float
    reply: float
    longest: float

    @property
    def length(self) -> float:
        return self.prompt + self.reply

    @classmethod
    def limits(cls, config: Config) -> Load:
        """The most that a config allows: every prompt and every reply as long as they may be."""
        new = config.sampling.max_new_tokens
        return cls(config.model.max_prompt_tokens, new, new)


def linear_parameters(architecture: Architecture) -> int:
    """Weights that every token passes: all linear maps of all layers."""
    return architecture.layers * sum(i * o for i, o in architecture.linears().values())


def attention_flops(architecture: Architecture, seen: float) -> float:
    """Of one token that attends to `seen` others: scores and weighted sum, forward."""
    return 4 * architecture.layers * architecture.query_width * seen


def forward_flops(architecture: Architecture, length: float, attention: str) -> float:
    """Of one token in a forward pass over sequences of `length`; the vocabulary is left out.

    Plain (`eager`) attention also computes what the causal mask throws away.
    """
    seen = length if attention == "eager" else length / 2
    return 2 * linear_parameters(architecture) + attention_flops(architecture, seen)


def update_flops(config: Config, architecture: Architecture, load: Load, samples: float) -> float:
    """Of one update on `samples` samples, on however many ranks.

    The base is frozen: its backward pass is as large as its forward pass, for gradients of
    activations alone; attention's is twice as large, and so is LoRA's. Only reply tokens meet the
    vocabulary: forward, and once more for the gradient that `models.logprobs` keeps. Replies of
    a group share their prompt; what other prompts have in common is not known here.
    """
    algorithm = config.algorithm
    adapter = architecture.lora_parameters(config.lora.rank, config.lora.target_modules)
    linear = 2 * linear_parameters(architecture)
    forward = forward_flops(architecture, load.length, config.model.attention)
    attention = forward - linear
    tokens = computed_tokens(config, load)
    alone = tokens * (forward + 2 * adapter)
    trained = tokens * (2 * linear + 3 * attention + 6 * adapter)
    products = 3 if algorithm.entropy_coef else 2
    head = load.reply * 2 * architecture.vocab * architecture.hidden
    policy = trained + products * head
    if algorithm.advantage == "group":
        per_sample = algorithm.ppo_epochs * policy
    else:
        per_sample = algorithm.ppo_epochs * (policy + trained)
        if algorithm.minibatches > 1:  # else the first step's own pass gives the old values
            per_sample += alone
    if _proximal(config):
        per_sample += alone + head
    return samples * per_sample


def computed_tokens(config: Config, load: Load) -> float:
    """Tokens of a sample that the learner computes: of a group's prompt, its share."""
    grouped = config.algorithm.advantage == "group"
    return load.reply + load.prompt / (config.algorithm.group_size if grouped else 1)


def rank_samples(config: Config) -> int:
    """Samples per update of the rank that has the most."""
    return ceil(config.run.batch_size / config.learner.world_size)


def gathers(config: Config, load: Load) -> int:
    """Times that a ZeRO-3 rank gathers the whole model in one update.

    Once per forward and per backward pass of every micro-batch.
    """
    algorithm = config.algorithm
    per_optimizer_step = config.run.batch_size // algorithm.minibatches
    rows = max(1, int(config.learner.micro_batch_tokens // computed_tokens(config, load)))
    micro = ceil(ceil(per_optimizer_step / config.learner.world_size) / rows)
    networks = 1 if algorithm.advantage == "group" else 2
    trained = algorithm.ppo_epochs * algorithm.minibatches * micro * 2 * networks
    values = networks == 2 and algorithm.minibatches > 1
    without_gradient = ceil(rank_samples(config) / rows) * (int(values) + int(_proximal(config)))
    return trained + without_gradient


def gather_bytes(config: Config, architecture: Architecture) -> float:
    """What one rank receives in one gather: everything that it does not hold itself."""
    adapter = architecture.lora_parameters(config.lora.rank, config.lora.target_modules)
    world = config.learner.world_size
    return (dtype_bytes(config) * architecture.parameters + 4 * adapter) * (world - 1) / world


def reduction_bytes(config: Config, architecture: Architecture) -> float:
    """What one rank receives for gradients in one update: float32, every optimizer step.

    All ranks get the reduced gradient or, under ZeRO 1 and 2, the updated weights: twice the
    size; under ZeRO-3 each keeps its part alone, and the gathers bring the weights.
    """
    algorithm, world = config.algorithm, config.learner.world_size
    adapter = architecture.lora_parameters(config.lora.rank, config.lora.target_modules)
    trainable = adapter if algorithm.advantage == "group" else 2 * adapter
    ways = 1 if config.learner.zero_stage == 3 else 2
    return algorithm.ppo_epochs * algorithm.minibatches * ways * 4 * trainable * (world - 1) / world


def adapter_bytes(config: Config, architecture: Architecture) -> int:
    """The policy's adapter as it is published, in float32."""
    return 4 * architecture.lora_parameters(config.lora.rank, config.lora.target_modules)


def _proximal(config: Config) -> bool:
    """Whether the policy has a forward pass of its own before the first optimizer step."""
    algorithm = config.algorithm
    return algorithm.ratio == "decoupled" and algorithm.ppo_epochs * algorithm.minibatches > 1
