"""Fixtures that several rooms share."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from repo_ray.models.loading import BUILT_IN, load_tokenizer, resolve_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random two-layer Llama with the real tokenizer, float32."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = load_tokenizer(resolve_model(BUILT_IN))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM has on CPUs
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
