"""The learner: against stock PEFT, against padded batches, and against the machine's peak."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.stock import StockLearner
from repo_ray.config.settings import Config
from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.records import Experience, Prompt, Reward, Rollout

PROMPT_TOKENS = 48


def experiences(lengths: Sequence[int], vocabulary: int, seed: int) -> list[Experience]:
    """Random tokens; a learner's cost does not depend on what they say."""
    rng = random.Random(seed)
    made = []
    for i, n in enumerate(lengths):
        rollout = Rollout(
            sample_id=f"0-{i}-0",
            prompt_id=f"p{i}",
            attempt=0,
            prompt_token_ids=tuple(rng.randrange(vocabulary) for _ in range(PROMPT_TOKENS)),
            token_ids=tuple(rng.randrange(vocabulary) for _ in range(n)),
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
    batch = experiences([64] * 16, 1000, 0)

    def update_ours() -> float:
        assert not ours.update(batch).skipped
        return tokens(batch)

    def update_stock() -> float:
        stock.update(batch)
        return tokens(batch)

    yield update_ours, update_stock


@contextmanager
def uneven_lengths(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """32 samples of 8 to 256 new tokens: micro-batches by a token budget against one padded batch
    after the other in the order in which the samples came."""
    rng = random.Random(0)
    batch = experiences([rng.randint(8, 256) for _ in range(32)], 1000, 1)
    ours = PPOLearner(config, model)
    rows = 8

    def update_ours() -> float:
        assert not ours.update(batch).skipped
        return tokens(batch)

    stock = StockLearner(config, model)

    def padded() -> float:
        for start in range(0, len(batch), rows):
            stock.update(batch[start : start + rows])
        return tokens(batch)

    yield update_ours, padded


def flops_per_token(config: Config, model: Path, length: int) -> float:
    """Of one update: floating-point operations per token of a sequence of `length` tokens.

    A multiplication and an addition are two. Per forward pass of N base weights 2N, per backward
    pass through them 2N more (the base is frozen: no gradient of its weights), attention
    2 * 2 * length / 2 * hidden * layers a pass (causal), LoRA 6 times its weights (forward, and
    both gradients). An update has one pass without gradient and two with one.
    """
    raise NotImplementedError


def gemm_peak(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """FLOP per second of a large matrix product."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def one() -> None:
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    one()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        one()
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - began)
