"""The learner: against stock PEFT, against padded batches, and against the machine's peak."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.stock import StockLearner
from repo_ray.config.settings import Config
from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.models.loading import load_base
from repo_ray.records import Experience, Prompt, Reward, Rollout

#: Tokens of a prompt; ids are drawn below `VOCABULARY`.
PROMPT_TOKENS, VOCABULARY = 48, 1000


def experiences(lengths: Sequence[int], seed: int) -> list[Experience]:
    """Random tokens; a learner's cost does not depend on what they say."""
    rng = random.Random(seed)
    made = []
    for i, n in enumerate(lengths):
        rollout = Rollout(
            sample_id=f"0-{i}-0",
            prompt_id=f"p{i}",
            attempt=0,
            prompt_token_ids=tuple(rng.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)),
            token_ids=tuple(rng.randrange(VOCABULARY) for _ in range(n)),
            loss_mask=(True,) * n,
            logprobs=(-2.0,) * n,
            versions=(0,) * n,
            finish_reason="stop",
            text="",
        )
        value = rng.gauss(0, 1)
        made.append(Experience(Prompt(f"p{i}", ()), rollout, (), Reward(value, value, 0, 0, 0, 1)))
    return made


def tokens(batch: Sequence[Experience]) -> int:
    return sum(len(e.rollout.prompt_token_ids) + len(e.rollout.token_ids) for e in batch)


@contextmanager
def against_stock(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """16 samples of 48 + 64 tokens, one update of policy and value each."""
    ours, stock = PPOLearner(config, model), StockLearner(config, model)
    batch = experiences([64] * 16, 0)

    def update_ours() -> float:
        assert not ours.update(batch).skipped
        return tokens(batch)

    def update_stock() -> float:
        stock.update(batch)
        return tokens(batch)

    yield update_ours, update_stock


@contextmanager
def uneven_lengths(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """32 samples of 8 to 256 new tokens as they are, against each padded to the longest; one
    micro-batch either way. Padding stands before the prompt and is like it, so that both sides run
    the same code; the vocabulary never sees it on either."""
    rng = random.Random(0)
    batch = experiences([rng.randint(8, 256) for _ in range(32)], 1)
    longest = max(len(e.rollout.token_ids) for e in batch)
    padded = [_with_prompt_of(e, PROMPT_TOKENS + longest - len(e.rollout.token_ids)) for e in batch]
    room = config.learner.model_copy(update={"micro_batch_tokens": tokens(padded)})
    learner = PPOLearner(config.model_copy(update={"learner": room}), model)

    def update(samples: Sequence[Experience]) -> float:
        assert not learner.update(samples).skipped
        return tokens(batch)

    yield lambda: update(batch), lambda: update(padded)


def _with_prompt_of(e: Experience, count: int) -> Experience:
    rng = random.Random(e.rollout.sample_id)  # padding that is the same would be computed once
    prompt = tuple(rng.randrange(VOCABULARY) for _ in range(count))
    return replace(e, rollout=replace(e.rollout, prompt_token_ids=prompt))


@contextmanager
def against_peak(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """Floating-point operations of updates, against those of large matrix products."""
    learner = PPOLearner(config, model)
    batch = experiences([64] * 16, 0)
    shape = load_base(model, torch.float32, "sdpa")
    update_flops = flops(shape, config.lora.rank, batch)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 8192 if device.type == "cuda" else 2048
    dtype = getattr(torch, config.model.dtype)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def update() -> float:
        assert not learner.update(batch).skipped
        return update_flops

    def products(count: int = 50) -> float:
        for _ in range(count):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 2 * size**3 * count

    yield update, products


def flops(base: PreTrainedModel, rank: int, batch: Sequence[Experience]) -> float:
    """Floating-point operations that one update needs; a multiplication and an addition are two.

    Two forward passes (policy, values) and two backward. Through N frozen weights 2N
    a token and pass in either direction; through M weights of an adapter 2M forward, 4M backward;
    attention to half of a sequence of T tokens 2T a token, layer and channel forward, twice that
    backward. The vocabulary product for the response's tokens alone, once in either direction.
    """
    shape = base.config
    layers = cast(nn.ModuleList, base.base_model.layers)
    linear = [m for m in layers.modules() if isinstance(m, nn.Linear)]
    frozen = sum(m.weight.numel() for m in linear)
    adapter = sum(rank * (m.in_features + m.out_features) for m in linear)
    width = linear[0].out_features  # of the queries
    total = 0.0
    for e in batch:
        response = len(e.rollout.token_ids)
        length = len(e.rollout.prompt_token_ids) + response
        attention = 2 * length * width * len(layers)
        total += length * ((2 + 2) * 2 * frozen + (2 * 2 + 2 * 4) * adapter + (2 + 4) * attention)
        total += response * 2 * 2 * shape.vocab_size * shape.hidden_size
    return total
