"""A compiled engine: it samples the adapter it was given, and the next start compiles nothing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest import mock

import pytest
import torch

from repo_ray.config.settings import Config, LoraShape
from repo_ray.models.adapters import adapter_digest, add_adapters, export_adapter, import_adapter
from repo_ray.models.loading import load_base
from repo_ray.rollouts.engine import RolloutEngine, engine_environment
from repo_ray.rollouts.publication import make_canary

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROMPT = list(range(100, 140))
CONFIG = Config.model_validate(
    {
        "model": {"dtype": "float32", "max_prompt_tokens": 200},
        "lora": {"rank": 8, "alpha": 16},
        "sampling": {"max_new_tokens": 16},
        "rollout": {
            "enforce_eager": False,
            "max_model_len": 256,
            "max_num_seqs": 16,
            "pool": {"threads": 1},
        },
    }
)


def written(cache: Path) -> dict[Path, int]:
    """When each file was written, nanoseconds."""
    files = (path for path in cache.rglob("*") if path.is_file() and path.parent.name != "locks")
    return {path: path.stat().st_mtime_ns for path in files}


async def one_life(folder: Path, blob: bytes) -> tuple[tuple[int, ...], tuple[float, ...]]:
    engine = RolloutEngine(CONFIG, folder, "compiled")
    await engine.start()
    await engine.push(blob, 1, adapter_digest(blob))
    rollout = await engine.sample("s", "p", 0, PROMPT, 1)
    await engine.shutdown()
    return rollout.token_ids, rollout.logprobs


def test_a_compiled_engine_samples_its_adapter_and_is_compiled_once(
    tiny_model: Path, tmp_path: Path
):
    model = add_adapters(
        load_base(tiny_model, torch.float32, "eager"), ["policy"], LoraShape(rank=8, alpha=16)
    )
    blob = make_canary(export_adapter(model, "policy"), 1, 0.3)
    environment = engine_environment(CONFIG) | {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
    }
    with mock.patch.dict(os.environ, environment):
        reply, logprobs = asyncio.run(one_life(tiny_model, blob))
        compiled = written(tmp_path)
        again, _ = asyncio.run(one_life(tiny_model, blob))
    import_adapter(model, "policy", blob)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*PROMPT, *reply]])).logits[0]
    expected = logits[len(PROMPT) - 1 : -1].log_softmax(-1)[range(len(reply)), list(reply)]
    assert logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert again == reply
    assert any(path.suffix == ".so" for path in compiled)
    assert written(tmp_path) == compiled
