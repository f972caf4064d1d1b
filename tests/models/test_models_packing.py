"""A packed segment must be what it is alone: hidden states and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from repo_ray.models.packing import (
    Segment,
    branches,
    pack,
    read_hidden,
    token_budget_batches,
    tree_length,
)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attn_implementation=request.param,
    )
    return LlamaForCausalLM(config)


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


def unpacked(model, trees):
    rows = []
    for tree in trees:
        for index, segment in enumerate(tree):
            if segment.read:
                ids = torch.tensor([alone(tree, index)])
                rows.append(model.model(input_ids=ids).last_hidden_state[0, -1])
    return torch.stack(rows)


def grads(model, hidden):
    model.zero_grad()
    (hidden * torch.arange(hidden.numel()).view_as(hidden).sin()).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_hidden_states_and_gradients_equal_separate_forwards(model):
    batch = pack(TREES, 0, torch.float32, torch.device("cpu"))
    packed, separate = read_hidden(model.model, batch), unpacked(model, TREES)
    assert packed.shape == (6, 32)
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=1e-5)
    left, right = grads(model, packed), grads(model, separate)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4, msg=name)


def test_branch_does_not_see_its_sibling(model):
    def first(sibling):
        batch = pack([branches([1, 2], [[3], sibling])], 0, torch.float32, torch.device("cpu"))
        return read_hidden(model.model, batch)[0]

    torch.testing.assert_close(first([4, 5]), first([6, 7]), rtol=0, atol=0)


def test_padding_is_finite(model):
    batch = pack([branches([1], [[2]]), TREES[0]], 0, torch.float32, torch.device("cpu"))
    hidden = model.model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask
    ).last_hidden_state
    assert hidden.isfinite().all()


@pytest.mark.parametrize(
    "tree", [[Segment([])], [Segment([1], parent=0)], [Segment([1], parent=-2)]]
)
def test_bad_trees_are_refused(tree):
    with pytest.raises(ValueError, match="segment 0"):
        pack([tree], 0, torch.float32, torch.device("cpu"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_token_budget_batches_cover_every_row_once_within_the_budget(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(50, 120))
def test_token_budget_batches_are_the_cheapest_of_all(lengths, budget):
    def cost(batches):
        return sum(len(b) * max(b) + budget / 8 for b in batches)

    def ways(rows):
        for size in range(1, len(rows) + 1):
            if size * rows[size - 1] <= budget:
                yield from (
                    [rows[:size], *rest] for rest in (ways(rows[size:]) if rows[size:] else [[]])
                )

    found = [[lengths[i] for i in batch] for batch in token_budget_batches(lengths, budget)]
    assert cost(found) == pytest.approx(min(cost(way) for way in ways(sorted(lengths))))


def test_tree_length_counts_shared_text_once():
    assert tree_length(TREES[1]) == 6
