"""Turns, ratios and the table; and that both sides of the learner's bars do the same work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from repo_ray.benchmark.learning import experiences, flops, tokens
from repo_ray.benchmark.measure import Bar, Result, Work, compare
from repo_ray.benchmark.stock import StockLearner
from repo_ray.benchmark.table import markdown
from repo_ray.config.load import validate
from repo_ray.models.loading import load_base

BAR = Bar("ours", "theirs", "tokens", 2.0)


def test_sides_take_turns_and_who_begins_changes() -> None:
    order: list[str] = []

    @contextmanager
    def sides() -> Iterator[tuple[Work, Work]]:
        def side(name: str) -> Work:
            def work() -> float:
                order.append(name)
                return 10.0

            return work

        yield side("a"), side("b")
        order.append("end")

    result = compare(BAR, sides(), 3)
    assert "".join(order) == "ab" + "abbaab" + "end"
    assert len(result.ours) == len(result.peer) == 3


def test_the_ratio_is_the_median_of_neighbours_and_the_table_says_what_was_missed() -> None:
    result = Result(BAR, [10.0, 20.0, 60.0], [10.0, 10.0, 20.0])
    assert result.ratios == [1.0, 2.0, 3.0]
    assert (result.ratio, result.reached) == (2.0, True)
    missed = Result(BAR, [15e6], [10e6]).json()
    machine = {"hardware": "h", "torch": "1", "transformers": "2", "peft": "3", "vllm": "4"}
    text = markdown({"machine": machine, "repeats": 3, "parts": {"x": result.json(), "y": missed}})
    assert "| 2.00 (1.00 to 3.00) | ≥ 2 | 20 tokens/s | 10 tokens/s |" in text
    assert "| 1.50 (1.50 to 1.50) | ≥ 2, missed | 15 M tokens/s | 10 M tokens/s |" in text


def test_a_measure_that_is_not_a_speed_is_taken_as_it_is_and_may_have_a_largest_ratio() -> None:
    @contextmanager
    def sides() -> Iterator[tuple[Work, Work]]:
        yield lambda: 30.0, lambda: 40.0

    result = compare(Bar("ours", "theirs", "MiB", 0.8, at_most=True, timed=False), sides(), 2)
    assert list(result.ours) == [30.0, 30.0]
    assert (result.ratio, result.reached) == (0.75, True)
    machine = {"hardware": "h", "torch": "1", "transformers": "2", "peft": "3", "vllm": "4"}
    text = markdown({"machine": machine, "repeats": 2, "parts": {"x": result.json()}})
    assert "| 0.75 (0.75 to 0.75) | ≤ 0.8 | 30 MiB | 40 MiB |" in text


def test_where_nothing_was_promised_nothing_is_missed() -> None:
    result = Result(Bar("all of ours", "theirs", "MiB", None, timed=False), [90.0], [40.0])
    assert result.reached
    machine = {"hardware": "h", "torch": "1", "transformers": "2", "peft": "3", "vllm": "4"}
    text = markdown({"machine": machine, "repeats": 1, "parts": {"x": result.json()}})
    assert "| 2.25 (2.25 to 2.25) | none | 90 MiB | 40 MiB |" in text


def test_floating_point_operations_by_hand(tiny_model: Path) -> None:
    """Two layers of width 32: four heads of 32 channels, two of them for keys and values."""
    base = load_base(tiny_model, torch.float32, "sdpa")
    shapes = [(32, 128), (32, 64), (32, 64), (128, 32), (32, 64), (32, 64), (64, 32)]
    frozen = 2 * sum(a * b for a, b in shapes)
    adapter = 2 * sum(8 * (a + b) for a, b in shapes)
    batch = experiences([16], 0)
    length = 48 + 16
    attention = 2 * length * 128 * 2
    expected = length * (8 * frozen + 12 * adapter + 6 * attention)
    expected += 16 * 4 * base.config.vocab_size * 32
    assert tokens(batch) == length
    assert flops(base, 8, batch) == pytest.approx(expected)


def test_the_stock_learner_trains_both_adapters(tiny_model: Path) -> None:
    config = validate(
        {"model": {"path": str(tiny_model), "dtype": "float32"}, "lora": {"rank": 4, "alpha": 4}},
        "test",
    )
    stock = StockLearner(config, tiny_model)
    before = {n: p.detach().clone() for n, p in stock._model.named_parameters()}
    stock.update(experiences([5, 9], 0))
    moved = {n for n, p in stock._model.named_parameters() if not torch.equal(p, before[n])}
    assert {n.split(".")[-2] for n in moved} == {"policy", "value"}
    assert all("lora_" in n for n in moved)
