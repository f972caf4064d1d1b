"""Engines: sampling with a live adapter, and how long a new adapter takes to be live."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from repo_ray.benchmark.learning import PROMPT_TOKENS, VOCABULARY
from repo_ray.benchmark.measure import Work
from repo_ray.config.settings import Config
from repo_ray.models.adapters import adapter_digest, add_adapters, export_adapter, save_adapter
from repo_ray.models.loading import load_base
from repo_ray.rollouts.engine import RolloutEngine, engine_environment
from repo_ray.rollouts.publication import make_canary

#: Standard deviation of what the adapter adds to a layer's output: live, and replies stay long.
SCALE = 0.05


@contextmanager
def against_bare_vllm(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """Tokens sampled for 32 prompts at once; theirs is vLLM without any adapter. Both give the
    log-probabilities that learning needs and have a seed for each reply."""
    with _engine(config, model) as (runner, engine, _):
        llm = _vllm(config, model)
        yield _ours(runner, engine), lambda: _sampled(config, llm, None)


@contextmanager
def against_vllm_lora(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """The same adapter, served by vLLM's own LoRA; replies are shorter, as that is slow on CPUs."""
    from vllm.lora.request import LoRARequest

    short = config.sampling.model_copy(update={"max_new_tokens": 16})
    config = config.model_copy(update={"sampling": short})
    with _engine(config, model) as (runner, engine, blob), tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder), blob, str(model))
        llm = _vllm(config, model, enable_lora=True, max_loras=1, max_lora_rank=config.lora.rank)
        request = LoRARequest("adapter", 1, folder)
        yield _ours(runner, engine), lambda: _sampled(config, llm, request)


@contextmanager
def push_against_folder(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """From the learner's adapter to an engine that has proved to serve it; theirs: PEFT writes its
    folder and vLLM loads that, unproved. It is live then: `add_lora` copies it into the layers."""
    from vllm.lora.request import LoRARequest

    network = _network(config, model)
    versions = itertools.count(2)
    with _engine(config, model) as (runner, engine, _), tempfile.TemporaryDirectory() as folder:
        llm = _vllm(config, model, enable_lora=True, max_loras=1, max_lora_rank=config.lora.rank)

        def push() -> float:
            blob = export_adapter(network, "policy")
            runner.run(engine.push(blob, next(versions), adapter_digest(blob)))
            return 1.0

        def write_and_load() -> float:
            number = next(versions)
            place = Path(folder) / str(number)
            network.save_pretrained(str(place), selected_adapters=["policy"])
            request = LoRARequest(f"v{number}", number, str(place / "policy"))
            assert llm.llm_engine.add_lora(request)
            return 1.0

        yield push, write_and_load


@contextmanager
def _engine(config: Config, model: Path) -> Iterator[tuple[asyncio.Runner, RolloutEngine, bytes]]:
    """An engine with a live adapter, and that adapter."""
    os.environ.update(engine_environment(config))  # before vLLM is imported
    blob = make_canary(export_adapter(_network(config, model), "policy"), 0, SCALE)
    engine = RolloutEngine(config, model, "benchmark")
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        try:
            runner.run(engine.push(blob, 1, adapter_digest(blob)))
            yield runner, engine, blob
        finally:
            runner.run(engine.shutdown())


def _network(config: Config, model: Path) -> PeftModel:
    base = load_base(model, getattr(torch, config.model.dtype), config.model.attention)
    return add_adapters(base, ["policy"], config.lora)


def vllm_arguments(config: Config, model: Path) -> dict[str, Any]:
    """Plain vLLM with our engines' settings."""
    rollout = config.rollout
    return {
        "model": str(model),
        "dtype": config.model.dtype,
        "max_model_len": rollout.max_model_len,
        "max_num_seqs": rollout.max_num_seqs,
        "enforce_eager": rollout.enforce_eager,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 4096,
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
    }


def _vllm(config: Config, model: Path, **options: Any) -> Any:
    from vllm import LLM

    return LLM(**vllm_arguments(config, model), **options)


def _prompts() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(32)]


def _ours(runner: asyncio.Runner, engine: RolloutEngine) -> Work:
    turns = itertools.count()

    async def sample() -> float:
        turn = next(turns)
        replies = await asyncio.gather(
            *(
                engine.sample(f"{turn}-{i}-0", f"p{i}", 0, prompt, seed=turn * 100 + i)
                for i, prompt in enumerate(_prompts())
            )
        )
        return sum(len(r.token_ids) for r in replies)

    return lambda: runner.run(sample())


def _sampled(config: Config, llm: Any, request: Any) -> float:
    from vllm import SamplingParams

    sampling = config.sampling
    prompts: Sequence[Any] = [{"prompt_token_ids": ids} for ids in _prompts()]
    parameters = [
        SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=i,
            logprobs=0,
            detokenize=False,
        )
        for i in range(len(prompts))
    ]
    found = llm.generate(prompts, parameters, use_tqdm=False, lora_request=request)
    return sum(len(one.outputs[0].token_ids) for one in found)
