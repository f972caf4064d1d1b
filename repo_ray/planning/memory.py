"""Memory of each kind of actor, in bytes, item by item.

Every function returns what one device holds. Sizes that depend on the software are named
constants with their source; everything else is arithmetic on the architecture.
"""

from __future__ import annotations

from repo_ray.config import Config
from repo_ray.planning.architecture import Architecture

GIB = 2**30

#: CUDA context, NCCL buffers and allocator slack of one process. An allowance, not a measurement.
CUDA_PROCESS = 2 * GIB
#: A Python process with torch, transformers, peft and ray imported: 0.51 GiB (measured).
CPU_PROCESS = GIB // 2
#: Graphs and temporary buffers of one vLLM worker. An allowance, not a measurement.
VLLM_WORKSPACE = 2 * GIB
#: DeepSpeed's `stage3_max_live_parameters`: gathered at one time (its documented default).
ZERO3_LIVE = 10**9

#: Scores of one head in a block of packed attention, at most (`models.attention`).
BLOCK_SCORES = 2**22

Items = dict[str, int]


def dtype_bytes(config: Config) -> int:
    return 4 if config.model.dtype == "float32" else 2


def saved_per_token(architecture: Architecture, rank: int, width: int) -> int:
    """Bytes that one layer keeps for the backward pass, per token.

    Counts the tensors that autograd saves with a frozen base of `width` bytes per number and
    LoRA on every linear layer, no dropout: the two norms (float32 input and output), queries,
    keys and values, attention output, the four tensors of the gated feed-forward network, and
    A x of each adapter.
    """
    h, q, kv, i = (
        architecture.hidden,
        architecture.query_width,
        architecture.kv_width,
        architecture.intermediate,
    )
    norms = 2 * (4 + width) * h
    qk_norms = 4 * (q + kv) if architecture.qk_norm else 0
    feed_forward = 4 * width * i
    lora = len(architecture.linears()) * width * rank
    attended = width * 2 * (q + kv)
    return norms + qk_norms + attended + feed_forward + lora


def learner(config: Config, architecture: Architecture) -> Items:
    """One learner rank: policy and value adapters on one frozen base, under ZeRO.

    Masters, gradients and Adam's two moments are float32. The policy's and the value's passes
    take turns, so that the activations of one are held at a time.
    """
    settings, width = config.learner, dtype_bytes(config)
    world, stage = settings.world_size, settings.zero_stage
    base = architecture.parameters
    adapter = architecture.lora_parameters(config.lora.rank, config.lora.target_modules)
    trainable = adapter if config.algorithm.advantage == "group" else 2 * adapter

    def sharded(from_stage: int) -> int:
        return world if stage >= from_stage else 1

    longest = config.model.max_prompt_tokens + config.sampling.max_new_tokens
    # A sequence longer than the budget is a micro-batch of its own.
    tokens = max(settings.micro_batch_tokens, longest)
    per_token = saved_per_token(architecture, config.lora.rank, width)
    items = {
        "base weights": width * base // sharded(3),
        "adapters": 4 * trainable // sharded(3),
        "gradients": 4 * trainable // sharded(2),
        "Adam moments": 8 * trainable // sharded(1),
        "activations": tokens * architecture.layers * per_token,
        "vocabulary logits": 2 * 4 * settings.logprob_chunk * architecture.vocab,
    }
    if config.model.attention == "eager":
        # Scores of one block, masked, as weights, and their gradients.
        block = min(BLOCK_SCORES, tokens * longest)
        items["attention scores"] = 6 * width * architecture.heads * block
    if stage:
        # The flat partition that the optimizer updates, and the bucket in which gradients are
        # reduced (as large as all of them).
        items["ZeRO buffers"] = 4 * trainable // world + 4 * trainable
    if stage == 3 and world > 1:
        items["ZeRO buffers"] += width * min(base, ZERO3_LIVE)
    if width < 4:
        items["adapters cast for compute"] = width * adapter
    items["process"] = CUDA_PROCESS if settings.gpus else CPU_PROCESS
    return items


def engine(config: Config, architecture: Architecture, device_bytes: float) -> Items:
    """One device of a rollout engine. On a GPU, vLLM's KV cache takes what its share leaves.

    A negative KV cache means that the weights alone are over the share.
    """
    rollout, width = config.rollout, dtype_bytes(config)
    # Keys and values are replicated when there are more ranks than heads.
    items = {"base weights": width * architecture.parameters // rollout.tensor_parallel}
    if rollout.publication == "native":
        items["LoRA slots"] = (
            width
            * architecture.lora_parameters(config.lora.rank, config.lora.target_modules)
            // rollout.tensor_parallel
        )
    if rollout.pool.gpus:
        items["workspace"] = VLLM_WORKSPACE
        share = int(rollout.gpu_memory_utilization * device_bytes)
        items["KV cache"] = share - sum(items.values())
        items["process"] = CUDA_PROCESS
    else:
        items["KV cache"] = rollout.cpu_kv_cache_gib * GIB
        # The actor and vLLM's engine core are two processes.
        items["process"] = 2 * CPU_PROCESS
    return items


def kv_tokens(config: Config, architecture: Architecture, kv_bytes: int) -> int:
    """Tokens that fit into a KV cache of `kv_bytes` per device."""
    parts = min(config.rollout.tensor_parallel, architecture.kv_heads)
    return kv_bytes * parts // (architecture.kv_bytes_per_token * dtype_bytes(config) // 2)


def scorer(config: Config, architecture: Architecture, gpus: float) -> Items:
    """One reward-model or local-judge actor: its own base with the adapter merged, forward only."""
    width = dtype_bytes(config)
    # The widest moment of a layer: residual, norm in float32, gate, up and their product.
    widest = (width + 4) * architecture.hidden + 3 * width * architecture.intermediate
    return {
        "base weights": width * architecture.parameters,
        "activations": config.reward_model.batch_tokens * widest,
        "process": CUDA_PROCESS if gpus else CPU_PROCESS,
    }
