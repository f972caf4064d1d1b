"""Reading text: words, sentences, and the amounts of money in it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# A letter of a script that writes no spaces counts as a word of its own.
_WORD = re.compile(
    r"[^\W\d_\u3040-\u30ff\u3400-\u9fff]+(?:['’][^\W\d_]+)*|[\u3040-\u30ff\u3400-\u9fff]|\d+"
)
_SENTENCE = re.compile(r"(?<=[.!?;。！？；])(?:\s+|(?<=[。！？；]))|\n+")


def words(text: str) -> list[str]:
    """Words in lower case; a CJK character or a run of digits is one word."""
    return [w.casefold().replace("’", "'") for w in _WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """Sentences with their end marks; `;` ends one too."""
    return [s.strip() for s in _SENTENCE.split(text) if s.strip()]


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of `n` tokens occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


@lru_cache(maxsize=4096)
def script(character: str) -> str | None:
    """The Unicode script of a letter (`LATIN`, `CYRILLIC`, `CJK`, ...); None for other characters.

    Kana belong to `CJK`, because Japanese text mixes them.
    """
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]
    if name in {"HIRAGANA", "KATAKANA"}:
        return "CJK"
    return "LATIN" if name == "FULLWIDTH" else name


# --- Amounts of money --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money at `text[start:end]`."""

    value: float
    start: int
    end: int


_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_COUNTED = (
    "nights?|rooms?|guests?|people|persons?|adults?|kids?|children|days?|weeks?|months?|years?"
    "|hours?|hrs?|minutes?|mins?|stars?|bookings?|orders?|reviews?|travell?ers?|km|met(?:er|re)s?"
    "|sqm|m2|times|units?|searches|views|clicks|beds?|tickets?|types?|stays?|hotels?|options?"
)
_NOT_MONEY = re.compile(
    "|".join(
        (
            r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}",
            rf"\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+20\d\d\b)?",
            rf"\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}\b(?:,?\s+20\d\d\b)?",
            r"\b(?:in|since|year|of)\s+20\d\d\b",
            r"\d{1,2}[:：]\d{2}",
            r"\b\d{1,2}\s*[ap]\.?m\b",
            rf"(?:{_NUMBER})\s*(?:[%％]|per\s?cent\b|pct\b|percentage\b)",
            rf"(?<![\d.,])(?:{_NUMBER})[\s-]+(?:more\s+|extra\s+|other\s+)?(?:{_COUNTED})\b",
            r"\d+(?:st|nd|rd|th)\b",
            r"(?:\bno\.|\bnumber|#)\s*\d+",
            r"\d[\d-]{6,}\d",
            r"\d{1,2}\s*月\s*\d{1,2}\s*[日号]|\d+\s*(?:[晚间天年月日个星号位]|点)",
        )
    ),
    re.IGNORECASE,
)
_MONEY = re.compile(
    r"(?:(?P<before>(?:[¥￥$€£]|\b(?:rmb|cny|usd|eur))\s*)|(?<![A-Za-z0-9_.])(?<!\d,))"
    rf"(?P<number>{_NUMBER})"
    r"(?P<after>\s*(?:yuan|rmb|cny|usd|eur|元|块)\b|\s*[元块])?(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_SMALL = [
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
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SPELLED_VALUES = {w: i for i, w in enumerate(_SMALL)} | {
    w: 10 * (i + 2) for i, w in enumerate(_TENS)
}
_SPELLED_WORD = "|".join([*_SPELLED_VALUES, "hundred", "thousand"])
_SPELLED = re.compile(
    rf"\b(?:(?:{_SPELLED_WORD}|a(?=\s+(?:hundred|thousand)))(?:[\s-]+(?:and\s+)?|\b))+",
    re.IGNORECASE,
)
_COUNT_FOLLOWS = re.compile(rf"[\s-]*(?:more\s+|extra\s+|other\s+)?(?:{_COUNTED})\b", re.IGNORECASE)


def amounts(text: str, smallest_bare: float = 50.0) -> list[Amount]:
    """Amounts of money in `text`, in order.

    A number with a currency beside it is always one; a bare number only from `smallest_bare` on
    and unless it is a date, time, percentage, ordinal, reference or count ("3 nights").
    English numbers in words count from a hundred on.
    """
    # Masked characters keep their places, so that positions stay those of the text.
    masked = _NOT_MONEY.sub(lambda m: " " * len(m[0]), text)
    found = [
        Amount(value, m.start(), m.end())
        for m in _MONEY.finditer(masked)
        if (value := float(m["number"].replace(",", ""))) >= smallest_bare
        or m["before"]
        or m["after"]
    ]
    found += [
        Amount(value, m.start(), m.end())
        for m in _SPELLED.finditer(masked)
        if (value := _spelled_value(m[0])) >= 100 and not _COUNT_FOLLOWS.match(masked, m.end())
    ]
    return sorted(found, key=lambda a: a.start)


def _spelled_value(text: str) -> float:
    total = part = 0
    for word in re.findall(r"[a-z]+", text.casefold()):
        if word == "hundred":
            part = max(part, 1) * 100
        elif word == "thousand":
            total, part = total + max(part, 1) * 1000, 0
        elif word in _SPELLED_VALUES:
            part += _SPELLED_VALUES[word]
    return float(total + part)
