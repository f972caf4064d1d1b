import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import adapter_parameters, add_adapters
from repo_ray.planning import ArchitectureError, read_architecture
from repo_ray.planning.architecture import KNOWN, from_config

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 80,
    "vocab_size": 100,
}


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("tied", [True, False])
def test_counts_parameters_as_the_real_model_does(kind, tied):
    config = kind(**SIZES, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    architecture = from_config(config.to_dict(), "test")
    assert architecture.parameters == sum(p.numel() for p in model.parameters())


def test_counts_adapter_parameters_as_peft_does():
    config = LlamaConfig(**SIZES)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    shape = LoraShape(rank=4, alpha=4)
    peft = add_adapters(model, ["policy"], shape)
    real = sum(p.numel() for p in adapter_parameters(peft, "policy"))
    architecture = from_config(config.to_dict(), "test")
    assert architecture.lora_parameters(4, shape.target_modules) == real


def test_known_models_have_the_published_sizes():
    # Qwen3 technical report: 32.8 B parameters, 31.2 B without embeddings; SmolLM2: 135 M.
    assert KNOWN["Qwen/Qwen3-32B"].parameters == pytest.approx(32.8e9, rel=0.005)
    assert KNOWN["smollm2-135m"].parameters == pytest.approx(134.5e6, rel=0.005)


def test_reads_a_model_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LlamaConfig(**SIZES).to_dict()))
    assert read_architecture(str(tmp_path)).intermediate == 80


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ArchitectureError, match="nowhere"):
        read_architecture(str(tmp_path / "nowhere"))


def test_refuses_a_config_without_sizes_and_experts():
    with pytest.raises(ArchitectureError, match="hidden_size"):
        from_config({"model_type": "x"}, "x/config.json")
    with pytest.raises(ArchitectureError, match="mixture"):
        from_config({"num_experts": 8}, "x/config.json")


def test_refuses_an_unknown_lora_target():
    with pytest.raises(ArchitectureError, match="c_attn"):
        KNOWN["smollm2-135m"].lora_parameters(8, ("c_attn",))
