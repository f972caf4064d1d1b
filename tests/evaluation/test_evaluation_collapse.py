"""Length, repetition and sameness of replies, computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from repo_ray.evaluation.collapse import (
    Form,
    collapse_notice,
    form,
    length_notice,
    masked,
    opening_entropy,
    overlap,
    repetition,
    trend,
)

FORM = Form(words=20, cut=0.0, repetition=0.0, distinct_2=0.9, overlap=0.1, openings=0.9)


def test_repetition_is_the_share_of_4_grams_seen_before() -> None:
    assert repetition("a b c d e f") == 0.0
    assert repetition("a b c") == 0.0
    # abcd bcda cdab dabc abcd: five, of which four are distinct.
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("no no no no no no no") == pytest.approx(3 / 4)


def test_overlap_is_the_mean_jaccard_of_4_grams() -> None:
    assert overlap(["a b c d e", "a b c d e"]) == 1.0
    # {abcd, bcde} and {abcd, bcdf}: one of three in common; against the third nothing.
    assert overlap(["a b c d e", "a b c d f", "x y z u v"]) == pytest.approx((1 / 3) / 3)
    assert overlap(["yes", "yes", "no"]) == pytest.approx(1 / 3)
    assert overlap(["alone"]) == 0.0


def test_numbers_do_not_hide_a_template() -> None:
    texts = [masked("Could you do 380 for T1?"), masked("could you do 1,288.50 for T2?")]
    assert texts == ["could you do # for t#?"] * 2


def test_openings() -> None:
    assert opening_entropy(["a b c d", "a b c e"]) == 0.0
    assert opening_entropy(["a b c", "d e f", "g h i"]) == pytest.approx(1.0)
    # Shares 2/4, 1/4, 1/4: 1.5 bits of at most 2.
    assert opening_entropy(["a b c", "a b c x", "d e f", "g"]) == pytest.approx(1.5 / 2)
    assert opening_entropy(["alone"]) == 0.0


def test_form_puts_them_together() -> None:
    rows = [
        {"reply": "We can do 400 net today", "finish_reason": "stop"},
        {"reply": "We can do 380 net today", "finish_reason": "length"},
    ]
    found = form(rows)
    assert (found.words, found.cut, found.overlap, found.openings) == (6.0, 0.5, 1.0, 0.0)
    assert found.distinct_2 == pytest.approx(5 / 10)
    with pytest.raises(ValueError, match="no replies"):
        form([])


def test_trend_is_the_least_squares_slope() -> None:
    assert trend([(0, 1.0), (1, 3.0), (2, 2.0)]) == pytest.approx(0.5)
    assert trend([(0, 20.0), (10, 40.0)]) == pytest.approx(2.0)
    assert trend([(3, 1.0), (3, 2.0)]) is None
    assert math.isclose(trend([(s, 7.0) for s in range(5)]) or 0.0, 0.0)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(FORM, words=30), "from 20 to 30 words"),
        (replace(FORM, words=29), ""),
        (replace(FORM, words=13), "shrank from 20 to 13 words"),
        (replace(FORM, words=14), ""),
        (replace(FORM, cut=0.25), "from 0% to 25%"),
        (replace(FORM, cut=0.2), ""),
    ],
)
def test_length_notice(now: Form, said: str) -> None:
    notice = length_notice(FORM, now)
    assert said in notice
    assert bool(notice) == bool(said)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (FORM, replace(FORM, overlap=0.21), "overlap of two replies went from 0.10 to 0.21"),
        (FORM, replace(FORM, overlap=0.19), ""),
        # A policy that starts as a template must at least double its sameness.
        (replace(FORM, overlap=0.3), replace(FORM, overlap=0.5), ""),
        (FORM, replace(FORM, openings=0.45), "openings went from 0.90 to 0.45"),
        (FORM, replace(FORM, openings=0.5), ""),
        (replace(FORM, openings=0.0), replace(FORM, openings=0.0), ""),
        (FORM, replace(FORM, repetition=0.2), "repeated 4-grams"),
        (replace(FORM, repetition=0.1), replace(FORM, repetition=0.2), ""),
    ],
)
def test_collapse_notice(before: Form, now: Form, said: str) -> None:
    notice = collapse_notice(before, now)
    assert said in notice
    assert bool(notice) == bool(said)
