"""The rollout actor with a real engine on the real small model, in bfloat16."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
import ray
import torch

from repo_ray.actors.rollout import ANSWER_TIMEOUT_S, RolloutActor
from repo_ray.config.settings import Config, LoraShape
from repo_ray.models.adapters import adapter_digest, add_adapters, export_adapter
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_base, load_tokenizer, resolve_model
from repo_ray.records import Message
from repo_ray.rollouts.engine import engine_environment
from repo_ray.rollouts.publication import make_canary

pytestmark = pytest.mark.engine

CONFIG = Config.model_validate(
    {
        "model": {"max_prompt_tokens": 400},
        "lora": {"rank": 8, "alpha": 8},
        "sampling": {"max_new_tokens": 48},
        "rollout": {"max_model_len": 512, "max_num_seqs": 16, "pool": {"threads": 2}},
    }
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve_model(CONFIG.model.path)


@pytest.fixture(scope="module")
def adapters(folder: Path) -> tuple[bytes, bytes]:
    """An untouched adapter and one that changes every reply."""
    base = load_base(folder, torch.bfloat16, "eager")
    model = add_adapters(base, ["policy"], LoraShape(rank=8, alpha=8))
    initial = export_adapter(model, "policy")
    return initial, make_canary(initial, 0, 0.5)


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def start_actor(folder: Path, adapter: bytes, version: int):
    return RolloutActor.options(
        num_cpus=1,
        max_restarts=0,
        max_concurrency=64,
        runtime_env={"env_vars": engine_environment(CONFIG)},
    ).remote(CONFIG, folder, "rollout-0", ray.put(adapter), version)


def actor_process() -> psutil.Process:
    below = psutil.Process().children(recursive=True)
    (process,) = [p for p in below if "ray::RolloutActor" in " ".join(p.cmdline())]
    return process


async def test_an_actor_without_its_engine_ends(
    cluster, folder: Path, adapters: tuple[bytes, bytes]
):
    """What the pool needs to see in order to replace it: Ray's actor error, in every call."""
    actor = start_actor(folder, adapters[0], 1)  # never made ready
    calls = [actor.ping.remote(), actor.sample.remote("s", "p", 0, [1, 2], 1)]
    for call in calls:
        with pytest.raises(ray.exceptions.RayActorError):
            await call


async def test_start_sample_push_and_a_violent_end(
    cluster, folder: Path, adapters: tuple[bytes, bytes]
):
    initial, canary = adapters
    tokenizer = load_tokenizer(folder)
    prompt = encode_prompt(tokenizer, [Message("user", "Say hello.")], thinking=False)
    actor = start_actor(folder, canary, 4)

    state = await actor.ready.remote()
    assert (state.version, state.digest, state.verified) == (4, adapter_digest(canary), True)
    odd = await actor.sample.remote("s", "p", 0, prompt, 1, None, 0.1)
    assert set(odd.versions) == {4}

    report = await actor.push.remote(ray.put(initial), 5, adapter_digest(initial))
    assert (report.version, report.max_difference) == (5, 0.0)
    rollout = await actor.sample.remote("s", "p", 0, prompt, 1, None, 0.1)
    assert rollout.finish_reason == "stop"
    assert rollout.token_ids[-1] == tokenizer.eos_token_id
    assert len(rollout.logprobs) == len(rollout.token_ids)
    assert "hello" in rollout.text.lower()
    assert tokenizer.eos_token not in rollout.text
    assert rollout.engine == "rollout-0"
    assert odd.text != rollout.text

    process = actor_process()
    below = process.children(recursive=True)
    assert any("EngineCore" in " ".join(p.cmdline()) for p in below)
    process.kill()
    assert psutil.wait_procs(below, timeout=15)[1] == []


async def test_an_engine_core_that_is_frozen_is_found_out_after_a_call_was_given_up(
    cluster, folder: Path, adapters: tuple[bytes, bytes]
):
    actor = start_actor(folder, adapters[0], 1)
    await actor.ready.remote()
    (core,) = [p for p in actor_process().children() if "EngineCore" in " ".join(p.cmdline())]
    core.suspend()
    await actor.ping.remote()  # nothing is known yet
    call = actor.sample.remote("s", "p", 0, [1, 2], 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 1.0)
    ray.cancel(call)

    async def pings() -> None:
        for _ in range(10):  # one may overtake the cancellation
            await asyncio.wait_for(actor.ping.remote(), ANSWER_TIMEOUT_S + 10)
            await asyncio.sleep(1)

    with pytest.raises(ray.exceptions.RayActorError):
        await pings()
    assert psutil.wait_procs([core], timeout=15)[1] == []
