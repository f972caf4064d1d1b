"""Fixtures that the learner's tests share."""

import pytest
import torch
from learner_cases import VOCAB
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A random two-layer model on disk."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
    )
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    return path
