"""How one update's samples are divided: into optimizer steps, ranks and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from repo_ray.learner.engine import Rank
from repo_ray.models.actor_critic import TokenSequence
from repo_ray.models.packing import token_budget_batches


@dataclass(frozen=True)
class Filler:
    """What a rank computes where the samples do not divide evenly. The loss does not count it."""

    prompt_token_ids: tuple[int, ...] = (0,)
    token_ids: tuple[int, ...] = (0,)


def length(sample: TokenSequence) -> int:
    """Tokens of prompt and response."""
    return len(sample.prompt_token_ids) + len(sample.token_ids)


def minibatches(count: int, parts: int, seed: int, update: int, epoch: int) -> list[list[int]]:
    """The numbers of `count` samples in `parts` optimizer steps.

    Shuffled where there are several; a function of seed, update and epoch alone.
    """
    if parts == 1:
        return [list(range(count))]
    generator = torch.Generator().manual_seed(hash((seed, update, epoch)) % 2**31)
    order = torch.randperm(count, generator=generator)
    return [part.tolist() for part in order.tensor_split(parts) if len(part)]


def micro_batches(
    samples: Sequence[TokenSequence], chosen: Sequence[int], rank: Rank, budget: int
) -> Iterator[list[int]]:
    """This rank's share of the `chosen` samples, as their numbers, by token budget.

    Collectives run inside forward and backward, so every rank gets the same number of
    micro-batches: neighbours in order of length are dealt out one to each rank, and a rank
    that goes without in the last deal works on the filler (the last of `samples`).
    """
    world, mine = rank.world_size, rank.rank
    order = sorted(chosen, key=lambda i: length(samples[i]))
    deals = [order[at : at + world] for at in range(0, len(order), world)]
    lengths = [length(samples[deal[-1]]) for deal in deals]
    for group in token_budget_batches(lengths, budget):
        yield [deals[g][mine] if mine < len(deals[g]) else len(samples) - 1 for g in group]


def share(columns: Sequence[Tensor], rank: Rank, device: torch.device) -> None:
    """Adds the ranks' rows together: each filled in its own, the others are 0."""
    if rank.world_size == 1:
        return
    for column in columns:
        moved = column.to(device)
        dist.all_reduce(moved)
        column.copy_(moved)
