"""A packed segment must be what it is alone: hidden states and gradients."""

from copy import deepcopy
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from repo_ray.models import attention, packing
from repo_ray.models.attention import PACKED
from repo_ray.models.packing import (
    Segment,
    branches,
    budget_batches,
    pack,
    prefix_tree,
    read_hidden,
    tree_length,
)


class Models(NamedTuple):
    whole: LlamaForCausalLM
    packed: LlamaForCausalLM


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def models(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    # Two with the same weights: one for whole rows, one for packed ones.
    whole = LlamaForCausalLM._from_config(deepcopy(config), attn_implementation="eager")
    packed = LlamaForCausalLM._from_config(config, attn_implementation=PACKED[request.param])
    packed.load_state_dict(whole.state_dict())
    return Models(whole, packed)


TREES = [
    [
        Segment([1, 2, 3, 4]),
        Segment([5, 6, 7], parent=0, read=True),
        Segment([8], parent=0, read=True),
        Segment([9, 10], parent=2, read=True),
        Segment([11, 12], parent=1, read=True),
    ],
    branches([20, 21], [[22], [23, 24, 25]]),
]


def alone(tree, index):
    tokens = []
    while index >= 0:
        tokens = [*tree[index].tokens, *tokens]
        index = tree[index].parent
    return tokens


def unpacked(models, trees):
    rows = []
    for tree in trees:
        for index, segment in enumerate(tree):
            if segment.read:
                ids = torch.tensor([alone(tree, index)])
                rows.append(models.whole.model(input_ids=ids).last_hidden_state[0, -1])
    return torch.stack(rows)


def grads(model, hidden):
    model.zero_grad()
    (hidden * torch.arange(hidden.numel()).view_as(hidden).sin()).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_hidden_states_and_gradients_equal_separate_forwards(models):
    batch = pack(TREES, torch.device("cpu"))
    packed, separate = read_hidden(models.packed.model, batch), unpacked(models, TREES)
    assert packed.shape == (6, 32)
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=1e-5)
    left, right = grads(models.packed, packed), grads(models.whole, separate)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4, msg=name)


def test_branch_does_not_see_its_sibling(models):
    def first(sibling):
        batch = pack([branches([1, 2], [[3], sibling])], torch.device("cpu"))
        return read_hidden(models.packed.model, batch)[0]

    torch.testing.assert_close(first([4, 5]), first([6, 7]), rtol=0, atol=0)


def test_a_model_whose_attention_is_of_another_kind_is_refused():
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    )
    model = MistralForCausalLM._from_config(config, attn_implementation=PACKED["eager"])
    with pytest.raises(ValueError, match="MistralAttention attends with sliding_window"):
        read_hidden(model.model, pack(TREES, torch.device("cpu")))


@pytest.mark.parametrize(
    "tree", [[Segment([])], [Segment([1], parent=0)], [Segment([1], parent=-2)]]
)
def test_bad_trees_are_refused(tree):
    with pytest.raises(ValueError, match="segment 0"):
        pack([tree], torch.device("cpu"))


TOKENS = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=8), st.integers(1, 4))
def test_a_prefix_tree_holds_every_sequence(sequences, shared):
    with patch.object(packing, "SHARED", shared):
        tree, paths = prefix_tree(sequences)
    for sequence, path in zip(sequences, paths, strict=True):
        parts = [tree[i] for i in path]
        assert sum((tuple(p.tokens) for p in parts), ()) == sequence
        assert [p.parent for p in parts] == [-1, *path][:-1] or not path
    if shared == 1:  # then each beginning is there once
        beginnings = {s[:n] for s in sequences for n in range(1, len(s) + 1)}
        assert tree_length(tree) == len(beginnings)


def test_a_short_common_beginning_is_not_worth_a_segment():
    tree, paths = prefix_tree([(1,) * 15 + (2,), (1,) * 15 + (3,)])
    assert ([len(s.tokens) for s in tree], sorted(paths)) == ([16, 16], [[0], [1]])
    tree, paths = prefix_tree([(1,) * 16 + (2,), (1,) * 16 + (3,)])
    assert [len(s.tokens) for s in tree] == [16, 1, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), max_size=8), st.integers(1, 90))
def test_attention_in_blocks_is_what_every_token_has_alone(shapes, seed):
    segments, at = [], 0
    for size, before in shapes:
        segments.append(attention.Segment(range(at, at + size), range(min(before, at))))
        at += size
    if not segments:
        return
    torch.manual_seed(seed)
    inputs = [torch.randn(at, heads, 8).requires_grad_() for heads in (4, 2, 2)]
    q, k, v = inputs
    blocks = attention.Blocks.of(segments, torch.device("cpu"))
    ours = attention._PackedAttention.apply(*inputs, 0.3, attention._eager, blocks)
    weight = torch.randn(ours.shape)
    ours_gradients = torch.autograd.grad((ours * weight).sum(), inputs)
    loop = torch.zeros_like(ours)
    for segment in segments:
        for place in segment.own:
            seen = [*segment.before, *range(segment.own.start, place + 1)]
            for head in range(4):
                shared = head // 2
                weights = (k[seen, shared] @ q[place, head] * 0.3).softmax(0)
                there = torch.tensor(place), torch.tensor(head)
                loop = loop.index_put(there, weights @ v[seen, shared])
    torch.testing.assert_close(ours, loop, rtol=1e-4, atol=1e-5)
    for a, b in zip(
        ours_gradients, torch.autograd.grad((loop * weight).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


ITEMS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(ITEMS, st.integers(1, 120), st.integers(1, 3))
def test_budget_batches_cover_every_item_once_within_the_budget(items, budget, multiple):
    tokens, again = [n for n, _ in items], [n for _, n in items]
    batches = budget_batches(tokens, budget, again, multiple)
    assert [i for batch in batches for i in batch] == list(range(len(items)))

    def cost(batch):
        return again[batch[0]] * (batch[0] > 0) + sum(tokens[i] for i in batch)

    assert all(len(batch) == 1 or cost(batch) <= budget for batch in batches)
    if multiple == 1 and not any(again):
        one_less = len(batches) - 1
        assert one_less * budget < sum(tokens) or max(tokens) > budget / 2


def test_budget_batches_are_about_equal():
    assert budget_batches([10] * 9, 60) == [range(0, 5), range(5, 9)]
    assert budget_batches([10] * 9, 1000, multiple=3) == [range(0, 3), range(3, 6), range(6, 9)]
    assert budget_batches([], 10) == []


def test_tree_length_counts_shared_text_once():
    assert tree_length(TREES[1]) == 6
