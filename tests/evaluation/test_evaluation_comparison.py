"""Pooled seeds and paired differences between methods, against values worked out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluation_measures import bad, issue, row

from repo_ray.evaluation.bootstrap import MeasureSpec, turn_mean
from repo_ray.evaluation.measures import compare_columns, compute_differences, compute_measures

SCORE = (MeasureSpec("s", "S", "", "score", "higher", None, turn_mean(lambda r: r["gold_score"])),)


def scored(*scores: float) -> list[dict[str, Any]]:
    return [row(f"d{i}", gold_score=score) for i, score in enumerate(scores)]


def test_seeds_pool_their_dialogues() -> None:
    found = compare_columns({"m": [scored(0.1, 0.5), scored(0.3, 0.9)]}, "m")
    measure = found.measures["m"]["gold_score"]
    assert measure.value == pytest.approx(0.45)
    assert measure.n == 2, "two dialogues, however many seeds"
    assert found.by_seed["m"]["gold_score"] == pytest.approx((0.3, 0.6))


def test_one_excellent_reply_is_asked_of_each_seed_alone() -> None:
    seeds = [[row("a", excellent=True), row("b")], [row("a"), row("b")]]
    found = compare_columns({"m": seeds}, "m").measures["m"]["excellent_dialogues"]
    assert found.value == 0.25
    assert found.n == 2


def test_a_dialogue_is_drawn_with_all_its_seeds() -> None:
    """Three identical seeds say no more about other dialogues than one."""
    one = scored(*(i / 10 for i in range(10)))
    alone = compare_columns({"m": [one]}, "m").measures["m"]["gold_score"]
    thrice = compare_columns({"m": [one, one, one]}, "m").measures["m"]["gold_score"]
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high))


def test_a_single_column_is_as_before() -> None:
    rows = scored(0.1, 0.4, 0.5)
    alone = compute_measures(rows)["gold_score"]
    assert compare_columns({"m": [rows]}, "m").measures["m"]["gold_score"] == alone


def test_differences_are_method_minus_reference_over_shared_dialogues() -> None:
    columns = {
        "base": [[*scored(0.1, 0.2, 0.3), row("only base", gold_score=0.9)]],
        "a": [scored(0.2, 0.3, 0.4), scored(0.4, 0.5, 0.6)],
        "b": [scored(0.1, 0.2, 0.3)],
    }
    found = compare_columns(columns, "base")
    assert set(found.differences) == {"a", "b"}
    gap = found.differences["a"]["gold_score"]
    # Every dialogue gains 0.2 on average over the two seeds: no width.
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.2, 0.2, 0.2))
    assert gap.n == 3
    other = compare_columns(columns, "b").differences["a"]["gold_score"]
    assert other.value == pytest.approx(0.2)


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(40)
    before, after = scored(*hard), scored(*(hard + 0.05 + 0.02 * rng.random(40)))
    gap = compute_differences(after, before)["gold_score"]
    unpaired = compare_columns({"x": [before]}, "x").measures["x"]["gold_score"]
    assert gap.low is not None
    assert gap.high is not None
    assert unpaired.low is not None
    assert unpaired.high is not None
    assert gap.high - gap.low < 0.1 * (unpaired.high - unpaired.low)
    assert gap.low > 0


def test_differences_match_an_independent_bootstrap() -> None:
    """A loop over draws, written without the ratio trick."""
    ours = [scored(0.2, 0.9, 0.4, 0.7), scored(0.6, 0.1, 0.8, 0.3)]
    theirs = [scored(0.3, 0.3, 0.5, 0.1)]
    gap = compare_columns({"a": ours, "b": theirs}, "b", SCORE, 500, 7).differences["a"]["s"]
    draws = np.random.default_rng(7).integers(0, 4, size=(500, 4))
    gaps = []
    for draw in draws:
        mine = [ours[s][d]["gold_score"] for d in draw for s in (0, 1)]
        other = [theirs[0][d]["gold_score"] for d in draw]
        gaps.append(sum(mine) / len(mine) - sum(other) / len(other))
    assert (gap.low, gap.high) == pytest.approx(tuple(np.percentile(gaps, [2.5, 97.5])))


def test_a_difference_without_width_keeps_an_honest_interval() -> None:
    """Nobody fails severely in either column: the true rates may still differ a little."""
    severe = issue("assumed_consent", "severe")
    clean = [bad(f"d{i}") for i in range(45)]
    failed = [bad(f"d{i}", severe) for i in range(45)]
    same = compute_differences(clean, clean)["severe_unresolved"]
    bound = 1 - 0.025 ** (1 / 45)
    assert (same.value, same.low, same.high) == pytest.approx((0, -bound, bound))
    gone = compute_differences(clean, failed)["severe_unresolved"]
    assert (gone.value, gone.low, gone.high) == pytest.approx((-1, -1, -1 + bound))


def test_seeds_without_data_have_no_value() -> None:
    found = compare_columns({"m": [scored(0.5), []]}, "m")
    assert found.by_seed["m"]["gold_score"] == (0.5, None)
    assert "clean_fix" not in found.measures["m"]


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'sft'.*\['base'\]"):
        compare_columns({"base": [scored(0.5)]}, "sft")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_differences_turn_their_sign_with_the_order(
    pairs: list[tuple[float, float]], seeds: int
) -> None:
    a = [scored(*(x for x, _ in pairs))] * seeds
    b = [scored(*(y for _, y in pairs))]
    ab = compare_columns({"a": a, "b": b}, "b", SCORE, 50).differences["a"]["s"]
    ba = compare_columns({"a": a, "b": b}, "a", SCORE, 50).differences["b"]["s"]
    assert (ab.value, ab.low, ab.high) == pytest.approx(
        (-ba.value, -(ba.high or 0), -(ba.low or 0))
    )


def test_emergent_skills_are_shares_of_the_turns_that_call_for_them() -> None:
    shown = [True, False, None, None, True]
    rows = [row(f"d{i}", emotional_value=value) for i, value in enumerate(shown)]
    measure = compute_measures(rows)["emotional_value"]
    assert measure.value == pytest.approx(2 / 3)
    assert measure.n == 3
    assert "hotel_type_fit" not in compute_measures(rows), "an older file has no such column"


def test_distinct_dialogue_orders_do_not_matter() -> None:
    rows = scored(0.1, 0.4, 0.9)
    for order in itertools.permutations(rows):
        assert compute_measures(list(order))["gold_score"].value == pytest.approx(1.4 / 3)
