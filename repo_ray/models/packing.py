"""Several continuations of one text in one sequence.

A preference pair is one prompt with two replies; a judged reply is one transcript with a
question per criterion. Run separately, the shared text would be computed once per
continuation. Here each sample is a tree of segments laid out in one row: a token attends to
its own segment so far and to the segment's ancestors, and positions continue where the parent
ended. Every segment therefore sees exactly what it would see on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text. `parent` is the index of an earlier segment of the tree, -1 for a root.

    `read` marks a segment whose last token's hidden state is wanted.
    """

    tokens: Sequence[int]
    parent: int = -1
    read: bool = False


Tree = Sequence[Segment]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Trees padded to one length T.

    `mask` is additive (0 or the type's lowest number), as eager and SDPA attention both take
    it. `reads` are indices into the flattened [B * T] positions: the last token of each
    `read` segment, tree by tree.
    """

    input_ids: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    mask: Float[Tensor, "B 1 T T"]
    reads: Int[Tensor, N]


def branches(prefix: Sequence[int], ends: Sequence[Sequence[int]]) -> list[Segment]:
    """A prefix with several continuations, each of which is read at its last token."""
    return [Segment(prefix), *(Segment(tokens, parent=0, read=True) for tokens in ends)]


def tree_length(tree: Tree) -> int:
    """Tokens of a tree in all."""
    return sum(len(segment.tokens) for segment in tree)


def pack(
    trees: Sequence[Tree], pad_id: int, dtype: torch.dtype, device: torch.device
) -> PackedBatch:
    """Lays out `trees`, one per row. `dtype` is that of the attention scores.

    Raises:
        ValueError: no trees, an empty segment, or a parent that does not precede its child.
    """
    if not trees:
        raise ValueError("pack: no trees")
    length = max(tree_length(tree) for tree in trees)
    ids = torch.full((len(trees), length), pad_id)
    positions = torch.zeros((len(trees), length), dtype=torch.long)
    sees = torch.zeros((len(trees), length, length), dtype=torch.bool)
    reads: list[int] = []
    for row, tree in enumerate(trees):
        spans: list[range] = []
        depths: list[int] = []
        at = 0
        for index, segment in enumerate(tree):
            size = len(segment.tokens)
            if not size or not -1 <= segment.parent < index:
                raise ValueError(
                    f"pack: tree {row}, segment {index}: {size} tokens, parent {segment.parent}; "
                    "expected at least one token and an earlier parent"
                )
            start = depths[segment.parent] if segment.parent >= 0 else 0
            span = range(at, at + size)
            ids[row, at : at + size] = torch.as_tensor(segment.tokens)
            positions[row, at : at + size] = torch.arange(start, start + size)
            sees[row, at : at + size, at : at + size] = torch.ones(size, size).tril().bool()
            ancestor = segment.parent
            while ancestor >= 0:
                seen = spans[ancestor]
                sees[row, at : at + size, seen.start : seen.stop] = True
                ancestor = tree[ancestor].parent
            spans.append(span)
            depths.append(start + size)
            at += size
            if segment.read:
                reads.append(row * length + at - 1)
    # Padding looks at itself: a softmax over nothing would be NaN.
    sees |= torch.eye(length, dtype=torch.bool)
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
    return PackedBatch(
        ids.to(device),
        positions.to(device),
        mask.unsqueeze(1).to(device),
        torch.tensor(reads, dtype=torch.long, device=device),
    )


def read_hidden(backbone: nn.Module, batch: PackedBatch) -> Float[Tensor, "N D"]:
    """Final hidden states (after the last norm) at `batch.reads`.

    `backbone` is the decoder without its language-model head.
    """
    hidden = backbone(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.mask,
        use_cache=False,
    ).last_hidden_state
    return hidden.flatten(0, 1)[batch.reads]


#: What a batch costs beside its tokens, in budgets: overhead, and products too small to be fast.
BATCH_COST = 1 / 8


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that rows times longest row stays within `budget` tokens.

    Similar lengths go together, cut where it costs least: tokens with padding, and an eighth of a
    budget for every batch. A row longer than the budget makes a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    least, starts = [0.0], [0]  # of the first n rows: the cost, and where its last batch starts
    for end, last in enumerate(order, start=1):
        most = max(1, budget // max(lengths[last], 1))
        choices = range(max(0, end - most), end)
        costs = [least[i] + (end - i) * lengths[last] for i in choices]
        cheapest = min(range(len(costs)), key=costs.__getitem__)
        least.append(costs[cheapest] + BATCH_COST * budget)
        starts.append(choices[cheapest])
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]
