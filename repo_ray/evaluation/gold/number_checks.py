"""Are the amounts, comparisons and dates in a reply true in this scenario?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from repo_ray.evaluation.gold.acts import Mention, Reply
from repo_ray.evaluation.gold.amounts import find_amounts, find_dates, find_percentages
from repo_ray.evaluation.gold.scenario import Item, Scenario
from repo_ray.evaluation.gold.verdict import Issue
from repo_ray.records import Message

_OTHERS_LOWER = re.compile(
    r"\b(?:others?|competit\w+|rivals?|elsewhere|other \w+)\b[^.!?;]{0,40}?\b(?:lower|cheaper|less|below|better price|undercut)\b"
    r"|\b(?:lower|cheaper|less|better price)\b[^.!?;,]{0,25}\b(?:elsewhere|other (?:platforms?|sites?|channels?|apps?)|competitors?)\b"
    r"|\b(?:we|our \w+|ours|you|your (?:price|rate|room|hotel))\b[^.!?;,]{0,30}\b(?:higher|pricier|above|dearer|more expensive)\b",
    re.IGNORECASE,
)
_OTHERS_HIGHER = re.compile(
    r"\b(?:others?|competit\w+|rivals?|elsewhere|other (?:platforms?|sites?|channels?|apps?))\b[^.!?;,]{0,30}?\b(?:higher|pricier|dearer|more expensive)\b"
    r"|\b(?:our (?:price|page|listing)|ours|we(?:'re| are)?)\b[^.!?;,]{0,25}\b(?:already |even )?(?:lower than|cheaper than|below)\b",
    re.IGNORECASE,
)
_WISH = re.compile(
    r"\b(?:could|would|can|if|so that|to|should|might|may|want|hope)\b[^.!?]*$", re.IGNORECASE
)


def number_issues(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> list[Issue]:
    """Findings on every amount, comparison, percentage and date of the reply."""
    spoken = {a.value for m in messages if m.role != "system" for a in find_amounts(m.content)}
    issues = [i for m in reply.mentions if (i := _amount_issue(m, scenario, spoken)) is not None]
    issues += _comparisons(reply, scenario)
    issues += _percentages(reply, scenario, messages)
    issues += _dates(reply, scenario, messages)
    return issues


def _amount_issue(m: Mention, scenario: Scenario, spoken: set[int]) -> Issue | None:
    items = [scenario.item(m.ticket)] if m.ticket else list(scenario.items)
    if m.difference:
        return _difference_issue(m, scenario, spoken)
    if m.role in ("selling", "competitor") and m.act != "accepts":
        return _stated_price_issue(m, items, scenario)
    if m.act in ("asks", "confirms", "accepts", "claims_consent"):
        return _deal_amount_issue(m, items, scenario)
    if m.role == "net":
        if any(m.value in (i.net, i.quote) for i in items):
            return None
        if any(m.value in (i.selling, i.competitor) for i in items):
            return _mixup(m)
        known = m.value in spoken or _plausible_ask(m.value, items)
        return None if known else _invented(m)
    if (
        any(m.value in i.facts for i in items)
        or m.value in spoken
        or _plausible_ask(m.value, items)
    ):
        return None
    if m.ticket and any(m.value in i.facts for i in scenario.items):
        return Issue(
            "ticket_mixup", "major", f"{m.value} belongs to another ticket than {m.ticket}"
        )
    return _invented(m)


def _stated_price_issue(m: Mention, items: Sequence[Item], scenario: Scenario) -> Issue | None:
    name = "selling" if m.role == "selling" else "competitor"
    right = [i.selling if m.role == "selling" else i.competitor for i in items]
    if m.value in right or all(v is None for v in right):
        return None
    same_kind = {i.selling if m.role == "selling" else i.competitor for i in scenario.items}
    if m.value in same_kind:
        return Issue(
            "ticket_mixup", "major", f"{m.value} belongs to another ticket than {m.ticket}"
        )
    if m.act == "asks" or any(m.value in (i.net, i.quote, i.target, i.mandate) for i in items):
        return Issue(
            "price_kind_mixup", "major", f"{m.value} is called a {name} price; it is a net price"
        )
    if any(m.value in (i.selling, i.competitor) for i in items):
        return Issue("wrong_fact_amount", "major", f"{m.value} is not the {name} price {right}")
    if m.ticket and any(m.value in i.facts for i in scenario.items):
        return Issue(
            "ticket_mixup", "major", f"{m.value} belongs to another ticket than {m.ticket}"
        )
    return Issue("wrong_fact_amount", "major", f"{name} price {m.value}; the facts say {right}")


def _deal_amount_issue(m: Mention, items: Sequence[Item], scenario: Scenario) -> Issue | None:
    """A net price named as ask or deal; limits are checked in deal_checks."""
    if any(m.value in (i.quote, i.target, i.mandate, i.net) for i in items):
        return None
    if any(m.value in (i.selling, i.competitor) for i in items):
        return _mixup(m)
    if any(m.value in (*i.facts, i.target) for i in scenario.items):
        return Issue(
            "ticket_mixup", "major", f"{m.value} belongs to another ticket than {m.ticket}"
        )
    hoped = [i.target for i in items if i.target is not None]
    if m.act == "asks" and hoped and m.value < min(hoped):
        # Asking for less than is wanted may be an opening; far less has no ground here.
        far = m.value < 0.9 * min(hoped)
        reason = f"asks {m.value}, {min(hoped)} is hoped for"
        return Issue("unreachable_ask", "major" if far else "minor", reason)
    return None


def _plausible_ask(value: int, items: Sequence[Item]) -> bool:
    return any(
        i.target is not None and i.mandate is not None and 0.85 * i.target <= value <= i.mandate
        for i in items
    )


def _difference_issue(m: Mention, scenario: Scenario, spoken: set[int]) -> Issue | None:
    """A gap is true when some two prices of one ticket differ by it (or to an earlier spoken one)."""
    for i in scenario.items:
        prices = {*i.facts, *spoken} | {v for v in (i.target, i.mandate) if v is not None}
        if any(abs(a - b) == m.value for a in prices for b in prices if a != b):
            return None
    if m.value <= 30 and m.act != "states":
        return None
    return Issue("invented_amount", "major", f"no two prices differ by {m.value}")


def _mixup(m: Mention) -> Issue:
    return Issue(
        "price_kind_mixup", "major", f"{m.value} is a price that guests see, used as a net price"
    )


def _invented(m: Mention) -> Issue:
    return Issue("invented_amount", "major", f"{m.value} appears in no fact of this scenario")


def _comparisons(reply: Reply, scenario: Scenario) -> Iterator[Issue]:
    gaps = {
        i.ticket: i.selling - i.competitor for i in scenario.items if i.selling and i.competitor
    }
    if not gaps:
        return
    for s in reply.sentences:
        own = [gaps[t] for t in s.tickets if t in gaps] or list(gaps.values())
        lower, higher = _OTHERS_LOWER.search(s.text), _OTHERS_HIGHER.search(s.text)
        if lower and not _WISH.search(s.text[: lower.start()][-30:]) and all(g <= 0 for g in own):
            yield Issue("false_comparison", "major", "says others sell cheaper; they do not here")
        if (
            higher
            and not lower
            and not _WISH.search(s.text[: higher.start()][-30:])
            and all(g >= 0 for g in own)
        ):
            yield Issue("false_comparison", "major", "says others sell dearer; they do not here")


def _percentages(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> Iterator[Issue]:
    said = {p for m in messages for p in find_percentages(m.content)}
    true = set(said)
    for i in scenario.items:
        prices = [float(v) for v in (*i.facts, i.target, i.mandate) if v]
        true |= {100 * abs(a - b) / b for a in prices for b in prices if a != b}
    for percentage in find_percentages(reply.text):
        if not any(abs(percentage - t) <= 1 for t in true):
            yield Issue("invented_statistic", "major", f"{percentage:g}% has no source here")


def _dates(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> Iterator[Issue]:
    if scenario.check_in is None:
        return
    said = {d for m in messages for d in find_dates(m.content)}
    known = said | {(scenario.check_in.month, scenario.check_in.day)}
    for month, day in find_dates(reply.text):
        if (month, day) not in known:
            yield Issue("wrong_date", "major", f"{month:02d}-{day:02d} is not the check-in date")
