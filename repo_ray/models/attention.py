"""Attention among tokens of many sequences that lie in one row.

All else in a decoder looks at one token at a time, so the tokens of a batch go through it in one
row, without padding, and what sequences have in common is there once. Attention alone takes them
apart: segments of similar size are gathered into blocks, padded there, and put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

#: How much larger than what is in it a block may be, and scores of a head in it at most: few
#: products are fast, but padding is computed, too, and scores are memory.
PADDING, BLOCK_SCORES = 1.25, 2**22


@dataclass(frozen=True)
class Segment:
    """Tokens that follow one another: their places in the row, and the places of all tokens that
    they see before themselves, in order."""

    own: range
    before: Sequence[int]


@dataclass(frozen=True)
class Block:
    """B segments padded to one size: places of queries [B, T] and keys [B, S] in the row, where
    padding repeats some place, and what is added to scores: -inf where a query must not see a key.
    In a `causal` block it sees all up to its own."""

    queries: Int[Tensor, "b t"]
    keys: Int[Tensor, "b s"]
    bias: Float[Tensor, "b 1 t s"]
    causal: bool


#: (q [B, H, T, d], k and v [B, K, S, d], block, scale) -> [B, H, T, d]
Kernel = Callable[[Tensor, Tensor, Tensor, Block, float], Tensor]


@dataclass(frozen=True)
class Blocks:
    """All segments of a row of N tokens.

    Where each token is among the queries of all blocks, one block after another: queries before
    its segment's (`first`), queries of a segment of its block (`length`), queries of the segment
    before it (`within`), each [N]. `uses` [U], `starts` [N]: where it is among their keys, often
    if others share it: its uses begin at `starts` and end where the next token's begin.
    """

    blocks: Sequence[Block]
    first: Int[Tensor, " n"]
    length: Int[Tensor, " n"]
    within: Int[Tensor, " n"]
    uses: Int[Tensor, " u"]
    starts: Int[Tensor, " n"]

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> Blocks:
        """`segments` make up the whole row."""
        blocks: list[Block] = []
        count = sum(len(s.own) for s in segments)
        place = torch.empty(3, count, dtype=torch.long)
        used: list[Tensor] = []
        uses: list[Tensor] = []
        queries_before = keys_before = 0
        for chosen in _alike(segments):
            wide = max(len(s.own) for s in chosen)
            high = max(len(s.own) + len(s.before) for s in chosen)
            queries = torch.zeros(len(chosen), wide, dtype=torch.long)
            keys = torch.zeros(len(chosen), high, dtype=torch.long)
            for i, segment in enumerate(chosen):
                own = torch.arange(segment.own.start, segment.own.stop)
                seen = torch.cat([torch.tensor(segment.before, dtype=torch.long), own])
                queries[i, : len(own)], keys[i, : len(seen)] = own, seen
                place[0, own], place[1, own] = queries_before + i * wide, wide
                place[2, own] = torch.arange(len(own))
                used.append(seen)
                uses.append(keys_before + i * high + torch.arange(len(seen)))
            before = torch.tensor([len(s.before) for s in chosen])
            last = before[:, None] + torch.arange(wide)  # what each query may see
            hidden = torch.arange(high) > last[:, None, :, None]
            bias = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            causal = not before.any()
            blocks.append(Block(queries.to(device), keys.to(device), bias.to(device), causal))
            queries_before += queries.numel()
            keys_before += keys.numel()
        tokens = torch.cat(used)
        counts = torch.bincount(tokens, minlength=count)
        by_token = torch.cat(uses)[tokens.argsort(stable=True)]
        starts = counts.cumsum(0) - counts
        first, length, within = place.to(device)
        return cls(blocks, first, length, within, by_token.to(device), starts.to(device))

    def places(self, heads: int) -> Int[Tensor, " nh"]:
        """Where each token's heads are, in turn, among [B, H, T] of all blocks."""
        head = torch.arange(heads, device=self.first.device)
        of_head = self.first[:, None] * heads + self.length[:, None] * head + self.within[:, None]
        return of_head.flatten()


def _alike(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Segments of similar size together."""
    chosen: list[Segment] = []
    area = wide = high = 0
    for segment in sorted(segments, key=lambda s: (len(s.own), len(s.before))):
        own, seen = len(segment.own), len(segment.own) + len(segment.before)
        wide, high, area = max(wide, own), max(high, seen), area + own * seen
        padded = (len(chosen) + 1) * wide * high
        if chosen and padded > min(BLOCK_SCORES, PADDING * area):
            yield chosen
            chosen, wide, high, area = [], own, seen, own * seen
        chosen.append(segment)
    yield chosen


class _PackedAttention(torch.autograd.Function):
    """Queries [N, H, d], keys and values [N, K, d] -> [N, H, d].

    Keeps its arguments alone for the backward pass, and there computes each block again.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, kernel: Kernel, of: Blocks
    ) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.rest = scale, kernel, of
        found = [
            kernel(*_taken(block, q, k, v), block, scale).reshape(-1, q.shape[-1])
            for block in of.blocks
        ]
        return torch.cat(found).index_select(0, of.places(q.shape[1])).view(q.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        scale, kernel, of = ctx.rest
        places, size = of.places(q.shape[1]), q.shape[-1]
        sizes = [block.queries.numel() * q.shape[1] for block in of.blocks]
        padded = q.new_zeros(sum(sizes), size)
        padded.index_copy_(0, places, grads[0].reshape(-1, size))
        d_q: list[Tensor] = []
        d_k: list[Tensor] = []
        d_v: list[Tensor] = []
        for block, grad in zip(of.blocks, padded.split(sizes), strict=True):
            with torch.enable_grad():
                inputs = [x.requires_grad_() for x in _taken(block, q, k, v)]
                out = kernel(*inputs, block, scale)
            found = torch.autograd.grad(out, inputs, grad.view(out.shape))
            d_q.append(found[0].reshape(-1, size))
            for into, gradient in zip((d_k, d_v), found[1:], strict=True):
                into.append(gradient.transpose(1, 2).flatten(2).flatten(0, 1))

        def summed(parts: list[Tensor]) -> Tensor:
            return embedding_bag(of.uses, torch.cat(parts), of.starts, mode="sum").view(k.shape)

        d_queries = torch.cat(d_q).index_select(0, places).view(q.shape)
        return d_queries, summed(d_k), summed(d_v), None, None, None


def _taken(block: Block, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys = (_of_heads(*each) for each in ((block.queries, q), (block.keys, k)))
    return _heads(q, queries), _heads(k, keys), _heads(v, keys)


def _of_heads(places: Int[Tensor, "b t"], x: Float[Tensor, "n h d"]) -> Int[Tensor, "b h t"]:
    head = torch.arange(x.shape[1], device=places.device)
    return places[:, None] * x.shape[1] + head[:, None]


def _heads(x: Float[Tensor, "n h d"], rows: Int[Tensor, "b h t"]) -> Float[Tensor, "b h t d"]:
    return x.view(-1, x.shape[-1]).index_select(0, rows.flatten()).view(*rows.shape, -1)


def _eager(q: Tensor, k: Tensor, v: Tensor, block: Block, scale: float) -> Tensor:
    """Plain products: twice as fast as torch's own on a CPU, where sequences are short."""
    batch, heads, queries, size = q.shape
    shared = batch * k.shape[1]  # query heads that share a key head lie in one product
    q, k, v = (x.reshape(shared, -1, size) for x in (q, k, v))
    scores = q.new_empty(batch, heads, queries, k.shape[1]).copy_(block.bias)
    scores = scores.view(shared, -1, k.shape[1]).baddbmm_(q, k.mT, alpha=scale)
    return (scores.softmax(-1) @ v).view(batch, heads, queries, size)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, block: Block, scale: float) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    if block.causal:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    bias = block.bias.to(q.dtype)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _attention(kernel: Kernel) -> Callable[..., tuple[Tensor, None]]:
    # Blocks differ from batch to batch: compiled, each would be new code.
    @torch.compiler.disable
    def attend(
        module: nn.Module,
        query: Float[Tensor, "1 h n d"],
        key: Float[Tensor, "1 k n d"],
        value: Float[Tensor, "1 k n d"],
        attention_mask: None,
        *,
        scaling: float,
        packing: Blocks,
        **options: Any,
    ) -> tuple[Float[Tensor, "1 n h d"], None]:
        """As Transformers calls it. Raises ValueError where the model wants more of attention."""
        if more := [
            o for o in ("sliding_window", "softcap", "s_aux") if options.get(o) is not None
        ]:
            raise ValueError(
                f"{type(module).__name__} attends with {', '.join(more)}, which sequences in one "
                "row do not support"
            )
        rows = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        return _PackedAttention.apply(*rows, scaling, kernel, packing)[None], None

    return attend


#: `model.attention` -> what Transformers calls it where sequences are packed.
PACKED: Mapping[str, str] = {"eager": "packed_eager", "sdpa": "packed_sdpa"}
for _name, _kernel in {"eager": _eager, "sdpa": _sdpa}.items():
    AttentionInterface.register(PACKED[_name], _attention(_kernel))
    AttentionMaskInterface.register(PACKED[_name], lambda *_, **__: None)
