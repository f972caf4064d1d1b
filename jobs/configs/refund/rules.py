"""Rules of a refund desk that writes German: a reply is checked against the order in its context.

A context has `paid` and `refund` (euros), `deadline` (ISO date), `days` (working days until the
payment, null where none are stated). A rule whose fact is missing stays quiet.
"""

# ruff: noqa: SIM905 (word lists read better as text)

from __future__ import annotations

import re
from datetime import date

from repo_ray.records import Prompt
from repo_ray.rewards.rules.registry import rule
from repo_ray.rewards.rules.text import sentences, words

_AMOUNT = re.compile(
    r"(?:(?:€|\bEUR|\bEuro)\s*)(\d[\d.]*(?:,\d\d)?)(?!\d)"
    r"|(?<![\d.,])(\d[\d.]*(?:,(?:\d\d|-+))?)\s*(?:€|EUR\b|Euros?\b)"
    r"|(?<![\d.,])(\d[\d.]*,\d\d)(?!\d)"
)
_MONTHS = (
    *("januar", "februar", "märz", "april", "mai", "juni"),
    *("juli", "august", "september", "oktober", "november", "dezember"),
)
_DATE = re.compile(
    rf"(?<![\d,])(\d{{1,2}})\.\s?(?:(\d{{1,2}})\.|({'|'.join(_MONTHS)}))(?:\s?(20\d\d)\b|(\d\d)\b)?",
    re.IGNORECASE,
)
_NUMBERS = (
    *("null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben"),
    *("acht", "neun", "zehn", "elf", "zwölf", "dreizehn", "vierzehn"),
)
_SPAN = re.compile(
    rf"\b(\d+|{'|'.join(_NUMBERS)})(?:e[mnrs]?)?[\s-]+"
    r"(Werktag|Arbeitstag|Tag|Woche|Monat|Stunde)(?:e?n?|s)\b",
    re.IGNORECASE,
)
_REFUND = re.compile(
    r"\w*erstatt\w*|\b\w*überweis\w*|\bauszahl\w*|\bgutschreib\w*|\bGeld zurück\b"
    r"|\b(?:zahl|erhalt|erhält|bekomm|krieg)\w*\b.*\bzurück\b|\bzurück(?:zahl|nehm|überweis)\w*",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:nicht|nichts|kein\w*|weder)\b", re.IGNORECASE)
_PROMISE = re.compile(
    r"\b(?:gutschein\w*|kulanz\w*|ausnahmsweise|garanti\w*|versprech\w*|verspricht|entschädig\w*"
    r"|\w*schenk\w*|gratis|umsonst|verdoppel\w*|doppelt|sofort\w*|noch heute|jeden wunsch)\b",
    re.IGNORECASE,
)
_INFORMAL = re.compile(
    r"\b(?:du|dich|dir|dein(?:e[mnrs]?)?|euch|euer|eure[mnrs]?)\b", re.IGNORECASE
)
#: Frequent English words that are no German ones.
_ENGLISH = frozenset(
    "the and you your our are is please thank thanks for with of to this that have has can "
    "sorry refund we it".split()
)


@rule("amount_not_in_order")
def amount_not_in_order(reply: str, prompt: Prompt) -> str | None:
    """An amount that the order does not have."""
    known = _amounts_of(prompt)
    if not known:
        return None
    other = [a for a in _amounts(reply) if a not in known]
    return f"{other[0]:.2f} is none of {', '.join(f'{a:.2f}' for a in known)}" if other else None


@rule("refund_mismatch")
def refund_mismatch(reply: str, prompt: Prompt) -> str | None:
    """Another amount than the order's refund is said to be paid back."""
    due = prompt.context.get("refund")
    if due is None:
        return None
    for sentence in sentences(reply):
        named = _amounts(sentence)
        if named and due not in named and _REFUND.search(sentence):
            return f"refund of {named[0]:.2f}, due are {due:.2f}"
    return None


@rule("refund_not_due")
def refund_not_due(reply: str, prompt: Prompt) -> str | None:
    """A refund is announced although none is due."""
    if prompt.context.get("refund") != 0:
        return None
    for sentence in sentences(reply):
        if _REFUND.search(sentence) and not _NEGATION.search(sentence):
            return f"nothing is due, yet: {sentence!r}"
    return None


@rule("deadline_mismatch")
def deadline_mismatch(reply: str, prompt: Prompt) -> str | None:
    """A date or a span of time that the order does not have."""
    deadline = prompt.context.get("deadline")
    if deadline is None:
        return None
    day = date.fromisoformat(deadline)
    for found in _DATE.finditer(reply):
        if not _is(found, day):
            return f"{found[0]!r} is not {day:%d.%m.%Y}"
    days = prompt.context.get("days")
    for found in _SPAN.finditer(reply):
        number = found[1].lower()
        count = int(number) if number.isdecimal() else _NUMBERS.index(number)
        if count != days or found[2].lower() not in ("werktag", "arbeitstag"):
            return f"{found[0]!r}, the order has {f'{days} working days' if days else 'none'}"
    return None


@rule("promise_beyond_policy")
def promise_beyond_policy(reply: str, prompt: Prompt) -> str | None:
    """Something that no policy gives: vouchers, goodwill, guarantees. Refusing it is fine."""
    for sentence in sentences(reply):
        found = _PROMISE.search(sentence)
        if found and not _NEGATION.search(sentence):
            return f"promises {found[0]!r}"
    return None


@rule("informal_address")
def informal_address(reply: str, prompt: Prompt) -> str | None:
    """`du` instead of `Sie`."""
    found = _INFORMAL.search(reply)
    return f"addresses the customer with {found[0]!r}" if found else None


@rule("english")
def english(reply: str, prompt: Prompt, *, limit: int = 1) -> str | None:
    """More than `limit` English words."""
    found = [w for w in words(reply) if w in _ENGLISH]
    return f"English: {' '.join(found[:5])}" if len(found) > limit else None


@rule("names_refund")
def names_refund(reply: str, prompt: Prompt) -> str | None:
    """Says what is refunded, or that nothing is."""
    due = prompt.context.get("refund")
    if due is None:
        return None
    if due == 0:
        refused = any(_REFUND.search(s) and _NEGATION.search(s) for s in sentences(reply))
        return "says that nothing is refunded" if refused else None
    return f"names {due:.2f}" if due in _amounts(reply) else None


@rule("names_deadline")
def names_deadline(reply: str, prompt: Prompt) -> str | None:
    """Names the order's date."""
    deadline = prompt.context.get("deadline")
    if deadline is None:
        return None
    day = date.fromisoformat(deadline)
    return f"names {day:%d.%m.%Y}" if any(_is(d, day) for d in _DATE.finditer(reply)) else None


def _amounts(text: str) -> list[float]:
    """Amounts of money: with a currency beside them, or with two decimals after a comma."""
    found = (next(filter(None, m.groups())) for m in _AMOUNT.finditer(_DATE.sub(" ", text)))
    return [
        float(f"{whole.replace('.', '') or 0}.{cents if cents.isdecimal() else 0}")
        for whole, _, cents in (number.partition(",") for number in found)
    ]


def _amounts_of(prompt: Prompt) -> list[float]:
    return [v for v in (prompt.context.get("refund"), prompt.context.get("paid")) if v is not None]


def _is(found: re.Match[str], day: date) -> bool:
    """Whether a match of `_DATE` is this day; a year that is not named is the right one."""
    month = int(found[2]) if found[2] else _MONTHS.index(found[3].lower()) + 1
    year = found[4] or found[5]
    return (int(found[1]), month) == (day.day, day.month) and (
        year is None or int(year) % 100 == day.year % 100
    )
