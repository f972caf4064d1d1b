import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from repo_ray.config import Config
from repo_ray.config.load import validate
from repo_ray.config.settings import LoraShape
from repo_ray.models import attention as packed_attention
from repo_ray.models import packing
from repo_ray.models.adapters import add_adapters, computing
from repo_ray.models.attention import PACKED
from repo_ray.models.packing import Segment, hidden_states
from repo_ray.planning import memory
from repo_ray.planning.architecture import KNOWN, from_config

RANK = 4
SIZES = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 320,
    "vocab_size": 64,
}


def saved_bytes(kind, layers, tokens, attention):
    """What autograd really keeps for a backward pass, each storage once."""
    model = AutoModelForCausalLM.from_config(
        kind(**SIZES, num_hidden_layers=layers),
        dtype=torch.bfloat16,
        attn_implementation=PACKED[attention],
    ).requires_grad_(False)
    model = add_adapters(model, ["policy"], LoraShape(rank=RANK, alpha=RANK))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    batch = packing.pack([[Segment([1] * tokens)]], torch.device("cpu"))
    saved, alive = {}, []

    def pack(tensor):
        alive.append(tensor)  # else an address could be used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), computing(model, "policy"):
        hidden_states(model.get_base_model().model, batch)
    return sum(saved.values())


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_activation_estimate_matches_what_autograd_saves(kind, attention):
    tokens = 256
    config = kind(**SIZES, num_hidden_layers=1)
    one_layer = saved_bytes(kind, 3, tokens, attention) - saved_bytes(kind, 2, tokens, attention)
    architecture = from_config(config.to_dict(), "test")
    estimate = tokens * memory.saved_per_token(architecture, RANK, 2)
    assert estimate == pytest.approx(one_layer, rel=0.06)


def test_a_block_of_attention_is_as_large_as_it_is_planned():
    assert memory.BLOCK_SCORES == packed_attention.BLOCK_SCORES


def config(**sections) -> Config:
    return validate(sections, "test")


def test_zero_stages_shard_what_they_say():
    qwen = KNOWN["Qwen/Qwen3-32B"]
    by_stage = {
        stage: memory.learner(config(learner={"world_size": 8, "zero_stage": stage}), qwen)
        for stage in (0, 1, 2, 3)
    }
    base, adapters = 2 * qwen.parameters, 2 * 4 * 536_870_912
    assert [by_stage[s]["base weights"] for s in range(4)] == [base, base, base, base // 8]
    assert [by_stage[s]["Adam moments"] for s in range(4)] == [2 * adapters] + 3 * [adapters // 4]
    assert [by_stage[s]["gradients"] for s in range(4)] == 2 * [adapters] + 2 * [adapters // 8]
    assert [by_stage[s]["adapters"] for s in range(4)] == 3 * [adapters] + [adapters // 8]


def test_kv_cache_holds_what_the_formula_says():
    qwen = KNOWN["Qwen/Qwen3-32B"]
    # 2 (key, value) * 64 layers * 8 heads * 128 * 2 bytes = 256 KiB per token, over two GPUs.
    settings = config(rollout={"tensor_parallel": 2})
    assert memory.kv_tokens(settings, qwen, memory.GIB) == 2 * memory.GIB // (256 * 1024)


def test_engine_fills_its_share_of_the_gpu():
    settings = config(
        rollout={"tensor_parallel": 2, "gpu_memory_utilization": 0.5, "pool": {"gpus": 2}}
    )
    items = memory.engine(settings, KNOWN["Qwen/Qwen3-32B"], 100 * memory.GIB)
    items.pop("process")
    assert sum(items.values()) == 50 * memory.GIB
