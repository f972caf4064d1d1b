"""Finds money amounts, percentages and dates in a spoken line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

_UNITS = {
    w: i
    for i, w in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    w: 10 * i
    for i, w in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_NUMBER_WORD = "|".join([*_UNITS, *_TENS, "hundred", "thousand"])
_SPELLED = re.compile(
    rf"\b(?:a\s+hundred|{_NUMBER_WORD})(?:[\s-]+(?:and\s+)?(?:{_NUMBER_WORD}|oh))*\b", re.IGNORECASE
)
_DIGITS = re.compile(
    r"(?P<currency>(?:cny|rmb|yuan|[¥￥$€£])\s?)?"
    r"(?<![\w.#])(?P<number>\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?)(?P<kilo>k\b)?"
    r"(?P<unit>\s?(?:yuan|rmb|cny|kuai|元|块)\b|[元块])?",
    re.IGNORECASE,
)
_MONTHS = "january february march april may june july august september october november december"
_MONTH = "|".join(f"{m[:3]}(?:{m[3:]})?" for m in _MONTHS.split())
_DATE = re.compile(
    rf"\b(?P<iso>\d{{4}}-\d{{1,2}}-\d{{1,2}})\b"
    rf"|\b(?P<m1>{_MONTH})\.?\s+(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+20\d\d\b(?!-))?"
    rf"|\b(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m2>{_MONTH})\b(?:,?\s+20\d\d\b(?!-))?",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s?(?:%|percent\b|per cent\b)", re.IGNORECASE)
#: What a number counts when it is not money.
_COUNTED = re.compile(
    r"[\s-]*(?:nights?|rooms?|beds?|floors?|metres?|meters?|km|square|days?|hours?|hrs?|minutes?|mins?|weeks?|months?|years?|guests?|"
    r"adults?|children|kids|couples?|families|people|others|hotels?|platforms?|sites?|apps|pages?|pictures?|clicks?|views?|calls?|questions?|steps?|"
    r"stars?|tickets?|types?|bookings?|orders?|reviews?|times?|x\b|[ap]\.?m\b|:\d\d|st\b|nd\b|"
    r"rd\b|th\b|%|percent|per cent|points?)",
    re.IGNORECASE,
)
#: A comparative right after the number (`29 cheaper`, `29 under`) or a noun of difference.
_DIFFERENCE_AFTER = re.compile(
    r"\s*(?:per night\s+)?(?!offer|after|other|number|however|either)"
    r"(?:[a-z]{2,}er|less|more|off|above|below|gap|discount|reduction|between|apart|in between|difference)\b",
    re.IGNORECASE,
)
_DIFFERENCE_BEFORE = re.compile(
    r"\b(?:by|gap of|difference of|gap is|difference is|discount of|saves?|saving|another|extra|cut of|"
    r"reduction of|drop of|just|only|shave|shaving|knock|trim)\s+(?:about |around |only |just |a )*"
    r"(?:cny|rmb|yuan|[¥￥])?\s?$",
    re.IGNORECASE,
)


#: Nobody names more in one reply; a text of nothing but numbers should not cost seconds.
_MOST = 40


@dataclass(frozen=True, slots=True)
class Amount:
    """A sum of money in yuan at `text[start:end]`; a `difference` is a gap, not a price."""

    value: int
    start: int
    end: int
    difference: bool


@lru_cache(maxsize=4096)
def find_amounts(text: str) -> tuple[Amount, ...]:
    """The first money amounts in order; dates, counts, percentages and ids are left out."""
    taken = [m.span() for m in _DATE.finditer(text)] + [m.span() for m in _PERCENT.finditer(text)]

    def free(start: int, end: int) -> bool:
        return all(end <= s or start >= e for s, e in taken)

    found = []
    for match in _DIGITS.finditer(text):
        start, end = match.span()
        if not free(start, end):
            continue
        marked = bool(match["currency"] or match["unit"])
        value = float(match["number"].replace(",", "")) * (1000 if match["kilo"] else 1)
        difference = _is_difference(text, start, end, value)
        if not marked and (
            _COUNTED.match(text, end)
            or re.match(r"\w", text[end : end + 1])
            or (value < 60 and not difference)
        ):
            continue
        # No room costs less than 60 yuan, so "the 9 yuan in between" is a gap.
        found.append(Amount(round(value), start, end, difference or value < 60))
    for match in _SPELLED.finditer(text):
        value_or_none = spelled_value(match.group())
        if value_or_none is None or value_or_none < 60 or _COUNTED.match(text, match.end()):
            continue
        start, end = match.span()
        found.append(Amount(value_or_none, start, end, _is_difference(text, start, end, 1e9)))
    return tuple(sorted(found, key=lambda a: a.start)[:_MOST])


def _is_difference(text: str, start: int, end: int, value: float) -> bool:
    before = _DIFFERENCE_BEFORE.search(text, 0, start)
    # "only 380" names a price; "only 20" names a gap.
    narrow = before is not None and (
        value < 150 or before.group().lower().startswith(("by", "gap"))
    )
    return narrow or (value < 300 and _DIFFERENCE_AFTER.match(text, end) is not None)


def spelled_value(words: str) -> int | None:
    """`three hundred and eighty`, `three eighty-five`, `four oh five` as a number; None if not one."""
    tokens = [t for t in re.split(r"[\s-]+", words.lower()) if t not in ("and", "a")]
    total, group, seen = 0, 0, False
    for token in tokens:
        if token in _UNITS or token == "oh":
            unit = _UNITS.get(token, 0)
            if token == "oh" and 1 <= group <= 9:
                group *= 100
            else:
                group += unit
            seen = True
        elif token in _TENS:
            # "three eighty" says hundreds without the word.
            group = group * 100 + _TENS[token] if 1 <= group <= 9 else group + _TENS[token]
            seen = True
        elif token == "hundred":
            group = max(group, 1) * 100
            seen = True
        elif token == "thousand":
            total, group = total + max(group, 1) * 1000, 0
            seen = True
    return total + group if seen else None


def find_percentages(text: str) -> list[float]:
    """Percentages as written, for example 6.5 for `6.5%`."""
    return [float(m[1]) for m in _PERCENT.finditer(text)]


def find_dates(text: str) -> list[tuple[int, int]]:
    """(month, day) of each date with a month."""
    months = {m[:3]: i for i, m in enumerate(_MONTHS.split(), start=1)}
    found = []
    for match in _DATE.finditer(text):
        if match["iso"]:
            year, month, day = (int(part) for part in match["iso"].split("-"))
            try:
                date(year, month, day)
            except ValueError:
                continue
            found.append((month, day))
        else:
            name = match["m1"] or match["m2"]
            found.append((months[name[:3].lower()], int(match["d1"] or match["d2"])))
    return found
