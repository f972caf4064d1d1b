"""Fixtures that several rooms share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from xdist.scheduler import LoadScopeScheduling

from repo_ray.models.loading import BUILT_IN, load_tokenizer, resolve_model

# A busy machine is no failure.
hypothesis.settings.register_profile("repo_ray", deadline=None)
hypothesis.settings.load_profile("repo_ray")

#: Rooms whose tests start Ray or whole runs.
STARTING = ("actors", "benchmark", "cluster", "doctor", "faults", "jobs", "pipeline", "soak")


class TwoParts(LoadScopeScheduling):
    """What starts Ray and mostly waits for it goes to one worker, one test at a time; all else to
    another, beside it."""

    def _split_scope(self, nodeid: str) -> str:
        return "starting" if nodeid.split("/")[1] in STARTING else "computing"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TwoParts:
    return TwoParts(config, log)


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


@pytest.fixture(scope="module")
def tiny_tree(tiny_model: Path) -> dict[str, Any]:
    """A config with everything small and nothing switched off."""
    stage = {"lr": 1e-3, "batch_size": 4, "max_rows": 16, "max_eval_rows": 16}
    pool = {"cpus": 0.1, "threads": 1}
    return {
        "run": {"name": "tiny", "steps": 3, "batch_size": 4, "checkpoint_every": 1},
        "model": {
            "path": str(tiny_model),
            "dtype": "float32",
            "attention": "eager",
            "max_prompt_tokens": 480,
        },
        "lora": {"rank": 4, "alpha": 8},
        "data": {"build_preferences": 60},
        "sampling": {"max_new_tokens": 12, "temperature": 0.9},
        "rollout": {
            "max_model_len": 512,
            "max_num_seqs": 16,
            "canary_tolerance": 0.01,
            "pool": {**pool, "max_in_flight": 16},
        },
        "reward_model": {"pool": pool},
        "judge": {"pool": pool, "min_auc": 0.0},
        "rules": {"pool": {**pool, "max_in_flight": 4}},
        "learner": {"cpus": 0.1, "threads": 1, "policy_lr": 1e-3, "value_lr": 1e-3},
        "warm_start": stage,
        "train_reward_model": stage,
        "train_judge": stage,
        "evaluation": {
            "online_dialogues": 2,
            "badcase_dialogues": 2,
            "turns_per_dialogue": 1,
            "bootstrap": 50,
        },
        "monitor": {"every": 2, "prompts": 8, "max_share": 2.0},
    }
