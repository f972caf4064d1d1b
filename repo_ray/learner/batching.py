"""How one update's samples are divided: into optimizer steps, ranks and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from repo_ray.learner.engine import Rank
from repo_ray.models.actor_critic import PromptReply, TokenSequence
from repo_ray.models.packing import SHARED, budget_batches, in_common

#: What a rank computes where the samples do not divide evenly. The loss does not count it.
FILLER: Final = PromptReply((0,), (0,))


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

    Samples that begin alike go together, and what they have in common counts once. Collectives
    run inside forward and backward, so every rank gets the same number of micro-batches: a rank
    that goes without works on the filler (the last of `samples`).
    """
    sequences = {i: (*samples[i].prompt_token_ids, *samples[i].token_ids) for i in chosen}
    order = sorted(chosen, key=lambda i: (sequences[i], i))
    shared = [0, *(in_common(sequences[a], sequences[b]) for a, b in pairwise(order))]
    shared = [count if count >= SHARED else 0 for count in shared]
    new = [len(sequences[i]) - count for i, count in zip(order, shared, strict=True)]
    batches = budget_batches(new, budget, shared, rank.world_size)
    per_rank = -(-len(batches) // rank.world_size)
    for n in range(rank.rank * per_rank, (rank.rank + 1) * per_rank):
        yield [order[i] for i in batches[n]] if n < len(batches) else [len(samples) - 1]


def share(columns: Sequence[Tensor], rank: Rank, device: torch.device) -> None:
    """Adds the ranks' rows together: each filled in its own, the others are 0."""
    if rank.world_size == 1:
        return
    for column in columns:
        moved = column.to(device)
        dist.all_reduce(moved)
        column.copy_(moved)
