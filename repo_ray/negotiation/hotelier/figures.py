"""Prices, price differences and percentages in a chat message.

Digits only: a price spelled out in words is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

#: Smaller numbers are prices only beside a currency: the cheapest bed of a scenario nets about 70.
SMALLEST_PRICE = 45
LARGEST_GAP = 250

_NOT_PRICES = re.compile(
    r"\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}[:.]\d{2}(?= ?(?:am|pm|h\b|o'clock))"
    r"|\b(?:in|since|of|year) 20[2-3]\d\b|\b\d+(?:st|nd|rd|th)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?<![\w#])(?P<money>[¥￥]\s?)?(?P<digits>[0-9]{1,3}(?:,[0-9]{3}){1,2}|[0-9]{1,7})(?P<decimals>\.[0-9]{1,2})?"
    r"(?P<percent>\s?(?:%|percent\b|per cent\b))?(?P<unit>\s?(?:yuan|rmb|cny|元)\b)?(?!\w)",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"\s?(?:more |extra |new |other )?(?:nights?|guests?|rooms?|bookings?|orders?|days?|weeks?|months?"
    r"|years?|minutes?|hours?|hotels?|people|reviews?|views?|clicks?|km|times|stars?|points?|tickets?)\b",
    re.IGNORECASE,
)
_GAP_AFTER = re.compile(
    r"\s?(?:lower|less|cheaper|higher|more|dearer|above|below|under|over|apart|difference|gap|off|down)\b",
    re.IGNORECASE,
)
_GAP_BEFORE = re.compile(
    r"\b(?:by|gap of|difference of|gap is|difference is|another|an extra|sav(?:e|es|ing)|cheaper)"
    r"(?: about| around| only| just| some)? $",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number in a text; `start` and `end` are its place."""

    value: float
    kind: Literal["price", "gap", "percent"]
    start: int
    end: int


def find_figures(text: str) -> list[Figure]:
    """All figures in their order; dates, times and counted things are none."""
    text = _NOT_PRICES.sub(lambda found: "_" * len(found[0]), text)
    found = []
    for match in _NUMBER.finditer(text):
        value = float(match["digits"].replace(",", "") + (match["decimals"] or ""))
        start, end = match.span()
        if match["percent"]:
            found.append(Figure(value, "percent", start, end))
            continue
        money = bool(match["money"] or match["unit"])
        between = value <= LARGEST_GAP and (
            _GAP_AFTER.match(text, end) or _GAP_BEFORE.search(text[:start])
        )
        if between:
            found.append(Figure(value, "gap", start, end))
        elif (money or value >= SMALLEST_PRICE) and not _COUNTED.match(text, end):
            found.append(Figure(value, "price", start, end))
    return found
