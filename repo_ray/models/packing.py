"""Many sequences in one row, in which what they have in common is computed once.

Replies to one prompt, the two of a preference pair, sentences of a reply that are judged one by
one: run separately, the text before them would be computed once for each. Here sequences are
trees of segments: a token attends to its own segment so far and to the segment's ancestors, and
positions continue where the parent ended. Every segment therefore sees exactly what it would see
on its own. Nothing is padded (see `models.attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.models import attention

#: Sequences with fewer tokens in common are not worth a segment of their own for them.
SHARED = 16


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
    """Trees in one row of N tokens; `reads` are places in it: the last token of each `read`
    segment, tree by tree."""

    input_ids: Int[Tensor, "1 N"]
    position_ids: Int[Tensor, "1 N"]
    blocks: attention.Blocks
    reads: Int[Tensor, R]


def branches(prefix: Sequence[int], ends: Sequence[Sequence[int]]) -> list[Segment]:
    """A prefix with several continuations, each of which is read at its last token."""
    return [Segment(prefix), *(Segment(tokens, parent=0, read=True) for tokens in ends)]


def tree_length(tree: Tree) -> int:
    """Tokens of a tree in all."""
    return sum(len(segment.tokens) for segment in tree)


def pack(trees: Sequence[Tree], device: torch.device) -> PackedBatch:
    """Lays out `trees`, one after another.

    Raises:
        ValueError: no trees, an empty segment, or a parent that does not precede its child.
    """
    if not trees:
        raise ValueError("pack: no trees")
    ids: list[int] = []
    positions: list[int] = []
    reads: list[int] = []
    laid_out: list[attention.Segment] = []
    for number, tree in enumerate(trees):
        first = len(laid_out)
        for index, segment in enumerate(tree):
            size = len(segment.tokens)
            if not size or not -1 <= segment.parent < index:
                raise ValueError(
                    f"pack: tree {number}, segment {index}: {size} tokens, parent "
                    f"{segment.parent}; expected at least one token and an earlier parent"
                )
            before: Sequence[int] = ()
            if segment.parent >= 0:
                parent = laid_out[first + segment.parent]
                before = (*parent.before, *parent.own)
            laid_out.append(attention.Segment(range(len(ids), len(ids) + size), before))
            ids.extend(segment.tokens)
            positions.extend(range(len(before), len(before) + size))
            if segment.read:
                reads.append(len(ids) - 1)
    return PackedBatch(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        attention.Blocks.of(laid_out, device),
        torch.tensor(reads, dtype=torch.long, device=device),
    )


def hidden_states(
    decoder: nn.Module, batch: PackedBatch, differentiate_inputs: bool = False
) -> Float[Tensor, "N D"]:
    """Final hidden states (after the last norm) of all tokens.

    `decoder` is the model without its language-model head, loaded for packed sequences
    (`loading.load_base`). With `differentiate_inputs`, the first layer gets inputs that want a
    gradient, as the others do.
    """
    embedding = cast(PreTrainedModel, decoder).get_input_embeddings()
    embedded: Tensor = embedding(batch.input_ids)
    if differentiate_inputs:
        embedded.requires_grad_()
    found = decoder(
        inputs_embeds=embedded,
        position_ids=batch.position_ids,
        packing=batch.blocks,
        use_cache=False,
    )
    hidden: Tensor = found.last_hidden_state
    return hidden[0]


def read_hidden(decoder: nn.Module, batch: PackedBatch) -> Float[Tensor, "R D"]:
    """Final hidden states at `batch.reads`."""
    return hidden_states(decoder, batch)[batch.reads]


# --- sequences that are not trees yet ----------------------------------------------------


def in_common(left: Sequence[int], right: Sequence[int]) -> int:
    """Tokens at the start of both."""
    limit = min(len(left), len(right))
    return next((i for i in range(limit) if left[i] != right[i]), limit)


def prefix_tree(sequences: Sequence[tuple[int, ...]]) -> tuple[list[Segment], list[list[int]]]:
    """One tree that holds all sequences, and each sequence's segments from its root on.

    Beginnings that several sequences have in common are one segment, from `SHARED` tokens on.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    tree: list[Segment] = []
    paths: list[list[int]] = [[] for _ in sequences]
    # Of sequences order[low:high] in which `begun` tokens have segments already, up to `parent`.
    waiting = [(0, len(order), 0, -1)]
    while waiting:
        low, high, begun, parent = waiting.pop()
        first = sequences[order[low]]
        common = in_common(first, sequences[order[high - 1]])  # sorted: so of all between, too
        alone = len(first) == len(sequences[order[high - 1]]) == common
        if common > begun and (alone or common - begun >= SHARED):
            tree.append(Segment(first[begun:common], parent))
            begun, parent = common, len(tree) - 1
            for i in order[low:high]:
                paths[i].append(parent)
        if alone:
            continue
        at = low
        while at < high:
            start, token = at, sequences[order[at]][common : common + 1]
            while at < high and sequences[order[at]][common : common + 1] == token:
                at += 1
            if token or begun < common:
                waiting.append((start, at, begun, parent))
    return tree, paths


# --- batches within a budget -------------------------------------------------------------


def budget_batches(
    tokens: Sequence[int], budget: int, again: Sequence[int] | None = None, multiple: int = 1
) -> list[range]:
    """Cuts a list of items into as few batches of at most `budget` tokens as can be, about equal.

    Item i adds `tokens[i]` to the batch of the item before it, and `again[i]` more where it begins
    one. An item beyond the budget makes a batch of its own. Batches are up to a `multiple`.
    """

    if not tokens:
        return []

    def filled(limit: int) -> list[range]:
        starts: list[int] = []
        held = 0
        for i, count in enumerate(tokens):
            held += count
            if not starts or held > limit:
                starts.append(i)
                held = count + (again[i] if again else 0)
        return [range(a, b) for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True)]

    fewest = -(-len(filled(budget)) // multiple) * multiple
    low, high = 0, budget
    while low < high:  # the smallest limit that does with as many
        middle = (low + high) // 2
        if len(filled(middle)) <= fewest:
            high = middle
        else:
            low = middle + 1
    return filled(high)
