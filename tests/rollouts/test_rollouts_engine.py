"""One real engine per publication mode, started once; float32, so that agreement is tight."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import psutil
import pytest
import pytest_asyncio
import torch

from repo_ray.config.settings import Config, LoraShape
from repo_ray.models.adapters import (
    adapter_digest,
    add_adapters,
    build_blob,
    computing,
    export_adapter,
    import_adapter,
    parse_adapter,
)
from repo_ray.models.loading import load_base
from repo_ray.rollouts.engine import EngineDiedError, RolloutEngine, engine_environment
from repo_ray.rollouts.publication import PublicationError, check_canary, make_canary

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

RANK = 8
PROMPT = list(range(100, 140))


def config_for(mode: str) -> Config:
    return Config.model_validate(
        {
            "model": {"dtype": "float32", "max_prompt_tokens": 200},
            "lora": {"rank": RANK, "alpha": 16},
            "sampling": {"max_new_tokens": 16},
            "rollout": {
                "publication": mode,
                "max_model_len": 256,
                "max_num_seqs": 16,
                "verify_tensors": 3,
                "pool": {"threads": 1},
            },
        }
    )


class Reference:
    """Log-probs of the same folder by Transformers and PEFT."""

    def __init__(self, folder: Path) -> None:
        base = load_base(folder, torch.float32, "eager")
        self.model = add_adapters(base, ["policy"], LoraShape(rank=RANK, alpha=16))
        self.initial = export_adapter(self.model, "policy")

    def logprobs(
        self,
        blob: bytes,
        prompt: list[int],
        reply: list[int] | tuple[int, ...],
        temperature: float = 1.0,
    ) -> list[float]:
        import_adapter(self.model, "policy", blob)
        with torch.no_grad(), computing(self.model, "policy"):
            logits = self.model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0]
        logprobs = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        return logprobs[torch.arange(len(reply)), torch.tensor(reply)].tolist()


@dataclass
class Bench:
    """An engine, what PEFT says, and adapters: the untouched one and two that move log-probs."""

    engine: RolloutEngine
    reference: Reference
    base: bytes
    one: bytes
    two: bytes

    async def push(self, blob: bytes, version: int):
        return await self.engine.push(blob, version, adapter_digest(blob))

    async def sample(self, seed: int = 1, prompt: list[int] | None = None, **options):
        return await self.engine.sample(f"s{seed}", "p", 0, prompt or PROMPT, seed, **options)


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Reference:
    torch.manual_seed(0)
    return Reference(tiny_model)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["merged", "native"])
async def bench(request: pytest.FixtureRequest, tiny_model: Path, reference: Reference):
    config = config_for(request.param)
    with mock.patch.dict(os.environ, engine_environment(config)):
        engine = RolloutEngine(config, tiny_model, f"rollout-{request.param}")
        await engine.start()
        base = reference.initial
        yield Bench(engine, reference, base, make_canary(base, 1, 0.3), make_canary(base, 2, 0.3))
        await engine.shutdown()


async def test_a_fresh_engine_says_that_it_has_no_adapter(bench: Bench):
    state = bench.engine.state()
    assert (state.version, state.digest, state.verified) == (0, "", True)


async def test_the_first_push_reads_back_every_tensor_and_later_ones_a_few(bench: Bench):
    first = await bench.push(bench.base, 0)
    assert first.verified_tensors == len(parse_adapter(bench.base).modules) == 14
    assert first.max_difference == 0.0
    later = await bench.push(bench.one, 7)
    assert later.verified_tensors == 3
    state = bench.engine.state()
    assert (state.version, state.digest) == (7, adapter_digest(bench.one))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_sampled_logprobs_are_those_of_the_distribution_sampled_from(
    bench: Bench, temperature: float
):
    await bench.push(bench.one, 3)
    rollout = await bench.sample(temperature=temperature)
    expected = bench.reference.logprobs(bench.one, PROMPT, rollout.token_ids, temperature)
    assert rollout.logprobs == pytest.approx(expected, abs=1e-4)
    assert len(rollout.token_ids) == 16
    assert rollout.finish_reason == "length"
    assert set(rollout.versions) == {3}
    assert all(rollout.loss_mask)


async def test_the_seed_fixes_the_sample(bench: Bench):
    await bench.push(bench.base, 0)
    one, again, other = [await bench.sample(seed) for seed in (5, 5, 6)]
    assert one.token_ids == again.token_ids
    assert one.logprobs == again.logprobs
    assert one.token_ids != other.token_ids


async def test_probe_agrees_with_peft_before_and_after_a_canary(bench: Bench):
    probes = [(PROMPT, list(range(300, 312))), (PROMPT[:7], list(range(500, 520)))]
    engine, peft = [], []
    for version, blob in enumerate((bench.base, bench.one)):
        await bench.push(blob, version)
        engine.append(await bench.engine.probe(probes))
        peft.append([bench.reference.logprobs(blob, *probe) for probe in probes])
    report = check_canary(engine[0], engine[1], peft[0], peft[1], tolerance=1e-3)
    assert report.engine_moved > 0.1
    assert report.canary_difference < 1e-4


async def test_restoring_the_base_restores_it_bit_for_bit(bench: Bench):
    await bench.push(bench.base, 0)
    before = await bench.sample()
    await bench.push(bench.one, 1)
    moved = await bench.sample()
    await bench.push(bench.base, 2)
    after = await bench.sample()
    assert moved.logprobs != before.logprobs
    assert (after.token_ids, after.logprobs) == (before.token_ids, before.logprobs)


async def test_a_push_leaves_no_cached_block_of_the_old_adapter(bench: Bench):
    long_prompt = list(range(1000, 1180))  # many full cache blocks
    await bench.push(bench.one, 1)
    await bench.sample(prompt=long_prompt)
    await bench.push(bench.two, 2)
    rollout = await bench.sample(prompt=long_prompt)
    expected = bench.reference.logprobs(bench.two, long_prompt, rollout.token_ids)
    assert rollout.logprobs == pytest.approx(expected, abs=1e-4)


async def test_a_push_waits_for_running_samples_and_later_samples_wait_for_it(bench: Bench):
    await bench.push(bench.one, 10)
    running = [asyncio.create_task(bench.sample(seed)) for seed in range(8)]
    await asyncio.sleep(0.02)
    push = asyncio.create_task(bench.push(bench.two, 11))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(bench.sample(seed)) for seed in range(8)]
    report, early, late = await asyncio.gather(
        push, asyncio.gather(*running), asyncio.gather(*waiting)
    )
    assert report.version == 11
    assert {v for rollout in early for v in rollout.versions} == {10}
    assert {v for rollout in late for v in rollout.versions} == {11}
    for rollout, blob in [(early[0], bench.one), (late[0], bench.two)]:
        expected = bench.reference.logprobs(blob, PROMPT, rollout.token_ids)
        assert rollout.logprobs == pytest.approx(expected, abs=1e-4)


async def test_seeded_requests_survive_more_prompt_tokens_than_one_step_takes(bench: Bench):
    await bench.push(bench.base, 0)
    prompts = [[2000 + i, *range(3000, 3200)] for i in range(32)]
    rollouts = await asyncio.gather(
        *(bench.sample(i, prompt, max_new_tokens=2) for i, prompt in enumerate(prompts))
    )
    assert len(rollouts) == 32


# --- faults ----------------------------------------------------------------------------


def with_one_weight_changed(blob: bytes) -> bytes:
    """The same adapter with one element of one B made larger."""
    adapter = parse_adapter(blob)
    tensors = {}
    for index, (path, (a, b)) in enumerate(adapter.modules.items()):
        changed = b.clone()
        if index == 5:
            changed[3, 2] += 0.01
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": changed}
    return build_blob(tensors, adapter.rank, adapter.alpha)


async def test_one_live_weight_that_differs_fails_the_push(
    bench: Bench, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    await bench.push(bench.one, 1)
    load, receive = bench.engine._load, bench.engine._receive

    async def load_another(blob: bytes, version: int) -> None:
        other = with_one_weight_changed(blob)
        await receive(other)
        await load(other, version)
        await receive(blob)

    monkeypatch.setattr(bench.engine, "_load", load_another)
    monkeypatch.setattr(bench.engine, "_pushes", 0)  # so that all tensors are read back
    with pytest.raises(PublicationError, match="version 2 is not live: 1 of 14 tensors"):
        await bench.push(bench.two, 2)
    monkeypatch.undo()

    assert not bench.engine.state().verified
    with pytest.raises(PublicationError, match="nothing is sampled"):
        await bench.sample()
    await bench.push(bench.two, 3)
    assert {*(await bench.sample()).versions} == {3}


async def test_a_load_that_does_nothing_fails_the_push(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    await bench.push(bench.one, 1)

    async def load_nothing(blob: bytes, version: int) -> None:
        pass

    monkeypatch.setattr(bench.engine, "_load", load_nothing)
    with pytest.raises(PublicationError, match="version 2 is not live: 3 of 3 tensors"):
        await bench.push(bench.two, 2)
    monkeypatch.undo()
    await bench.push(bench.two, 2)


async def test_a_prefix_cache_that_is_not_cleared_fails_the_push(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    async def refuse(reset_running_requests: bool) -> bool:
        return False

    monkeypatch.setattr(bench.engine._llm, "reset_prefix_cache", refuse)
    with pytest.raises(PublicationError, match="prefix cache"):
        await bench.push(bench.one, 1)
    monkeypatch.undo()
    await bench.push(bench.base, 0)


async def test_a_blob_with_another_digest_is_refused_and_changes_nothing(bench: Bench):
    await bench.push(bench.one, 1)
    with pytest.raises(PublicationError, match="digest"):
        await bench.engine.push(bench.two, 2, adapter_digest(bench.one))
    state = bench.engine.state()
    assert (state.version, state.digest, state.verified) == (1, adapter_digest(bench.one), True)


async def test_a_prompt_that_does_not_fit_is_an_error_of_that_sample_alone(bench: Bench):
    with pytest.raises(ValueError, match="240 prompt tokens and up to 17 new ones"):
        await bench.sample(prompt=list(range(1000, 1240)), max_new_tokens=17)
    await bench.sample()


async def test_the_death_of_the_engine_core_fails_everything_at_once(bench: Bench):
    """Stays last: the module's engine is gone after it."""
    await bench.push(bench.base, 0)
    below = psutil.Process().children(recursive=True)
    (core,) = [p for p in below if "EngineCore" in " ".join(p.cmdline())]
    running = [bench.sample(seed, max_new_tokens=200) for seed in range(3)]
    tasks = [asyncio.create_task(work) for work in running]
    await asyncio.sleep(0.05)
    core.kill()
    async with asyncio.timeout(10):
        for task in tasks:
            with pytest.raises(EngineDiedError, match="rollout-"):
                await task
        for call in (bench.sample(), bench.push(bench.one, 1), bench.engine.probe([([1], [2])])):
            with pytest.raises(EngineDiedError):
                await call
    with pytest.raises(EngineDiedError):
        bench.engine.check()
