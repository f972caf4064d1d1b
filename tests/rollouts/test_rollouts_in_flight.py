"""In-flight weight updates: a push interrupts replies, which go on with the new adapter."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest import mock

import pytest
import pytest_asyncio
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
from repo_ray.rollouts.publication import PublicationError, make_canary

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

SHAPE = LoraShape(rank=8, alpha=16)
PROMPT = list(range(100, 140))
NEW_TOKENS = 200


class Bench:
    """An engine with in-flight updates, adapters that move log-probs, and what PEFT says."""

    def __init__(self, folder: Path) -> None:
        config = Config.model_validate(
            {
                "run": {"staleness": 2},
                "model": {"dtype": "float32", "max_prompt_tokens": 50},
                "lora": SHAPE.model_dump(),
                "sampling": {"max_new_tokens": NEW_TOKENS},
                "rollout": {
                    "in_flight_updates": True,
                    "max_model_len": 256,
                    "max_num_seqs": 6,  # fewer than the samples: some wait when a push comes
                    "pool": {"threads": 1},
                },
            }
        )
        self.environment = engine_environment(config)
        self.engine = RolloutEngine(config, folder, "rollout-0")
        self.model = add_adapters(load_base(folder, torch.float32, "eager"), ["policy"], SHAPE)
        base = export_adapter(self.model, "policy")
        self.blobs = {v: make_canary(base, v, 0.3) for v in range(1, 5)}

    async def push(self, version: int):
        blob = self.blobs[version]
        return await self.engine.push(blob, version, adapter_digest(blob))

    def samples(self, count: int) -> list[asyncio.Task]:
        return [
            asyncio.create_task(self.engine.sample(f"s{i}", "p", 0, PROMPT, seed=i))
            for i in range(count)
        ]

    async def tokens_sampled(self, count: int) -> None:
        """Returns when some reply in the engine has `count` tokens."""
        states = self.engine._llm.output_processor.request_states
        async with asyncio.timeout(30):
            while not any(s.detokenizer.num_output_tokens() >= count for s in states.values()):
                await asyncio.sleep(0.002)

    def logprobs(self, version: int, reply: tuple[int, ...]) -> list[float]:
        import_adapter(self.model, "policy", self.blobs[version])
        with torch.no_grad(), computing(self.model, "policy"):
            logits = self.model(input_ids=torch.tensor([[*PROMPT, *reply]])).logits[0]
        chosen = logits[len(PROMPT) - 1 : -1].log_softmax(-1)
        return chosen[torch.arange(len(reply)), torch.tensor(reply)].tolist()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tiny_model: Path):
    torch.manual_seed(0)
    bench = Bench(tiny_model)
    with mock.patch.dict(os.environ, bench.environment):
        await bench.engine.start()
        yield bench
        await bench.engine.shutdown()


async def test_every_token_has_the_version_and_the_logprob_of_the_adapter_that_sampled_it(
    bench: Bench,
):
    """Teacher forcing through PEFT: a token lost, doubled or computed from keys and values of
    another adapter would change the log-probs of all that follow."""
    await bench.push(1)
    tasks = bench.samples(8)
    await bench.tokens_sampled(20)
    await bench.push(2)
    await bench.tokens_sampled(120)
    await bench.push(3)
    replies = await asyncio.gather(*tasks)
    for reply in replies:
        assert len(reply.token_ids) == len(reply.versions) == len(reply.logprobs) == NEW_TOKENS
        assert list(reply.versions) == sorted(reply.versions)
        expected = {v: bench.logprobs(v, reply.token_ids) for v in set(reply.versions)}
        assert reply.logprobs == pytest.approx(
            [expected[v][i] for i, v in enumerate(reply.versions)], abs=1e-4
        )
    assert set(replies[0].versions) == {1, 2, 3}
    # The neighbour's version would not do: the split is at the right token.
    first_new = replies[0].versions.index(2)
    for place, other in ((first_new, 1), (first_new - 1, 2)):
        wrong = bench.logprobs(other, replies[0].token_ids)[place]
        assert abs(replies[0].logprobs[place] - wrong) > 1e-3


async def test_a_push_does_not_wait_for_replies_and_samples_that_come_meanwhile_are_new(
    bench: Bench,
):
    await bench.push(1)
    running = bench.samples(4)
    await bench.tokens_sampled(5)
    push = asyncio.create_task(bench.push(2))
    await asyncio.sleep(0)
    late = bench.samples(1)
    await push
    assert not any(task.done() for task in running)
    assert set((await late[0]).versions) == {2}
    for reply in await asyncio.gather(*running):
        assert set(reply.versions) == {1, 2}


async def test_after_a_failed_push_replies_go_on_only_with_the_next_that_succeeds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    await bench.push(1)
    (running,) = bench.samples(1)
    await bench.tokens_sampled(20)

    async def load_nothing(blob: bytes, version: int) -> None:
        pass

    monkeypatch.setattr(bench.engine, "_load", load_nothing)
    with pytest.raises(PublicationError, match="version 2 is not live"):
        await bench.push(2)
    monkeypatch.undo()
    with pytest.raises(PublicationError, match="nothing is sampled"):
        await bench.samples(1)[0]
    assert not (await asyncio.wait([running], timeout=1.0))[0]
    await bench.push(3)
    reply = await running
    assert set(reply.versions) == {1, 3}
    expected = {v: bench.logprobs(v, reply.token_ids) for v in (1, 3)}
    assert reply.logprobs == pytest.approx(
        [expected[v][i] for i, v in enumerate(reply.versions)], abs=1e-4
    )
