"""Cohen's kappa: by hand, against a loop over all crossings, at the edges, with its interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.evaluation.agreement import (
    BINARY,
    RATINGS,
    agreement,
    cohen_kappa,
    pairwise_agreement,
)


def test_plain_kappa_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.70, chance 0.5 * 0.6 + 0.5 * 0.4 = 0.50.
    a = [1] * 25 + [0] * 25
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(a, b, BINARY) == pytest.approx(0.4)


def test_quadratic_kappa_by_hand() -> None:
    # Squared distances 0, 1, 4 (mean 5/3) against the mean over all 9 crossings of 1, 2, 3 with
    # 1, 3, 5: (0+4+16 + 1+1+9 + 4+0+4) / 9 = 39/9. 1 - (5/3) / (39/9) = 24/39.
    assert cohen_kappa([1, 2, 3], [1, 3, 5], RATINGS, "quadratic") == pytest.approx(24 / 39)


def test_unweighted_treats_every_difference_alike() -> None:
    near, far = [1, 2, 3, 4], [1, 2, 3, 5]
    distant = [1, 2, 3, 1]
    plain = [cohen_kappa(near, x, RATINGS) for x in (far, distant)]
    assert plain[0] is not None
    assert plain[1] is not None
    weighted = [cohen_kappa(near, x, RATINGS, "quadratic") for x in (far, distant)]
    assert weighted[0] is not None
    assert weighted[1] is not None
    assert weighted[0] - weighted[1] > plain[0] - plain[1]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3, 3, 3], [3, 3, 3], None),  # chance agrees as well
        ([], [], None),
        ([1, 2], [1, 2], 1.0),
        ([1, 5], [5, 1], -1.0),
        ([3, 3], [2, 4], 0.0),  # one rater does not discriminate
    ],
)
def test_edges(a: list[int], b: list[int], expected: float | None) -> None:
    assert cohen_kappa(a, b, RATINGS, "quadratic") == expected


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=40))
def test_against_every_crossing(pairs: list[tuple[int, int]]) -> None:
    """Disagreement seen, over that of every answer of one rater with every answer of the other."""
    for weights, distance in (
        ("none", lambda x, y: float(x != y)),
        ("quadratic", lambda x, y: float((x - y) ** 2)),
    ):
        seen = np.mean([distance(x, y) for x, y in pairs])
        chance = np.mean([distance(x, y) for x, _ in pairs for _, y in pairs])
        found = cohen_kappa(*zip(*pairs, strict=True), RATINGS, weights)  # type: ignore[arg-type]
        if chance == 0:
            assert found is None
        else:
            assert found == pytest.approx(1 - seen / chance)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="answer 6"):
        cohen_kappa([6], [1], RATINGS)
    with pytest.raises(ValueError, match="2 answers"):
        cohen_kappa([1, 2], [1], RATINGS)


def make(pairs: list[tuple[int | None, int | None]], per_dialogue: int = 1) -> tuple:
    first = {i: x for i, (x, _) in enumerate(pairs)}
    second = {i: y for i, (_, y) in enumerate(pairs) if y != 99}
    groups = {i: i // per_dialogue for i in range(len(pairs))}
    return first, second, groups


def test_items_that_one_evaluator_lacks_do_not_count() -> None:
    first, second, groups = make([(1, 1), (2, None), (None, 3), (4, 99), (5, 5)])
    found = agreement(first, second, groups, ("gold", "llm"))
    assert (found.first, found.second, found.n, found.groups) == ("gold", "llm", 2, 2)
    assert found.kappa == 1.0
    assert found.observed == 1.0


def test_nothing_in_common() -> None:
    found = agreement({1: 3}, {2: 3}, {1: 1, 2: 2}, ("a", "b"))
    assert (found.kappa, found.low, found.high, found.observed, found.n) == (
        None,
        None,
        None,
        None,
        0,
    )


def test_one_class_has_no_kappa_and_no_interval() -> None:
    first, second, groups = make([(3, 3)] * 8)
    found = agreement(first, second, groups, ("a", "b"))
    assert (found.kappa, found.low, found.high, found.observed) == (None, None, None, 1.0)


def test_the_interval_draws_whole_dialogues() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(1, 6, 60)
    noisy = np.clip(truth + rng.integers(-1, 2, 60), 1, 5)
    one = [(int(x), int(y)) for x, y in zip(truth, noisy, strict=True)]
    five = [pair for pair in one for _ in range(5)]
    alone = agreement(*make(one), ("a", "b"))
    copied = agreement(*make(five, 5), ("a", "b"))
    assert alone.low is not None
    assert alone.high is not None
    assert alone.kappa is not None
    assert alone.low < alone.kappa < alone.high
    assert (copied.kappa, copied.low, copied.high) == pytest.approx(
        (alone.kappa, alone.low, alone.high)
    )
    assert copied.n == 300
    assert copied.groups == 60
    split = agreement(*make(five), ("a", "b"))
    assert split.low is not None
    assert split.low > alone.low, "turns as dialogues look too sure"


def test_every_pair_of_evaluators() -> None:
    ratings = {"gold": {0: 1, 1: 0}, "llm": {0: 1, 1: 0}, "people": {0: 0, 1: 1}}
    found = pairwise_agreement(ratings, {0: 0, 1: 1}, BINARY, "none")
    assert [(a.first, a.second, a.kappa) for a in found] == [
        ("gold", "llm", 1.0),
        ("gold", "people", -1.0),
        ("llm", "people", -1.0),
    ]
