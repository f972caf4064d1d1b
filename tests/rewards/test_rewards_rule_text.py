"""Reading amounts, words and scripts out of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.rewards.rules.text import amounts, script, sentences, words


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("380", [380]),
        ("¥380, RMB 1,280 or CNY399.5", [380, 1280, 399.5]),
        ("380yuan and 45 yuan", [380, 45]),
        ("from 410 to 380.", [410, 380]),
        ("between 380-395 per night", [380, 395]),
        ("380/night, 3 nights", [380]),
        ("45 less", []),  # too small for a bare number
        ("12% or 12.5 percent", []),
        ("2026-03-14, 14 March 2026, March 14th, 14/3", []),
        ("at 14:00 or 3 pm, in 2026", []),
        ("120 bookings, 300 views, a 5-star hotel with 150 rooms", []),
        ("T1, T200, v1.380, #512, No. 400, B2B", []),
        ("call 13800001111 or 010-88886666", []),
        ("the 100th guest", []),
        ("three hundred and eighty, four hundred", [380, 400]),
        ("a thousand two hundred", [1200]),
        ("twenty of us", []),
        ("价格380元，3晚", [380]),
        ("three hundred nights, two hundred and ten more rooms", []),
        ("", []),
    ],
)
def test_amounts(text: str, values: list[float]) -> None:
    assert [a.value for a in amounts(text)] == values


@given(st.integers(100, 99_999), st.sampled_from(["{}", "¥{}", "{} yuan", "at {} per night."]))
def test_any_price_is_found_where_it_stands(price: int, frame: str) -> None:
    for written in (str(price), f"{price:,}"):
        text = "We ask for " + frame.format(written)
        (amount,) = amounts(text)
        assert amount.value == price
        assert written in text[amount.start : amount.end]


@given(st.text())
def test_positions_lie_in_the_text(text: str) -> None:
    for amount in amounts(text):
        assert 0 <= amount.start < amount.end <= len(text)


def test_words_and_sentences() -> None:
    assert words("Don’t say 380, 好吗?") == ["don't", "say", "380", "好", "吗"]
    assert sentences("One. Two? 3.5 left; end\nlast") == [
        "One.",
        "Two?",
        "3.5 left;",
        "end",
        "last",
    ]


def test_script() -> None:
    assert [script(c) for c in "aéЖ好カ1 ."] == [
        *["LATIN"] * 2,
        "CYRILLIC",
        "CJK",
        "CJK",
        *[None] * 3,
    ]
