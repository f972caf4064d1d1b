"""An adapter is merged into the shards of a tensor-parallel engine."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest
import torch

from repo_ray.config import Config
from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import (
    adapter_digest,
    add_adapters,
    computing,
    export_adapter,
    import_adapter,
)
from repo_ray.models.loading import load_base
from repo_ray.rollouts.engine import RolloutEngine, engine_environment
from repo_ray.rollouts.publication import make_canary

PROMPT, REPLY = list(range(100, 140)), list(range(300, 312))


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.asyncio
async def test_two_ranks_together_compute_what_peft_does(tiny_model: Path) -> None:
    config = Config.model_validate(
        {
            "model": {"dtype": "float32", "max_prompt_tokens": 200},
            "sampling": {"max_new_tokens": 16},
            "rollout": {"tensor_parallel": 2, "max_model_len": 256, "pool": {"threads": 1}},
        }
    )
    base = load_base(tiny_model, torch.float32, "eager")
    model = add_adapters(base, ["policy"], LoraShape(rank=8, alpha=16))
    initial = export_adapter(model, "policy")
    engine = RolloutEngine(config, tiny_model, "rollout-0")
    with mock.patch.dict(os.environ, engine_environment(config)):
        try:
            await engine.start()
            for version, scale in enumerate((0.3, 0.0, 0.2)):
                blob = make_canary(initial, version, scale)
                report = await engine.push(blob, version, adapter_digest(blob))
                assert report.max_difference == 0.0
                import_adapter(model, "policy", blob)
                with torch.no_grad(), computing(model, "policy"):
                    logits = model(input_ids=torch.tensor([PROMPT + REPLY])).logits[0]
                expected = logits[len(PROMPT) - 1 : -1].log_softmax(-1)[range(len(REPLY)), REPLY]
                (found,) = await engine.probe([(PROMPT, REPLY)])
                assert found == pytest.approx(expected.tolist(), abs=1e-4)
        finally:
            await engine.shutdown()
