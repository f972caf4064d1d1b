"""Are the amounts, comparisons and dates in a reply true in this scenario?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from repo_ray.evaluation.gold.acts import Reply
from repo_ray.evaluation.gold.amounts import find_amounts, find_dates, find_percentages
from repo_ray.evaluation.gold.mentions import Mention
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
#: What other hotels did: nothing in a scenario tells of them.
_NEIGHBOURS = re.compile(
    r"\b(?:(?:your|the|all) (?:\w+ )?neighbou?rs|(?:other|most|many|several|nearby|similar|competing|rival|all|two|three|five|ten|some) (?:\w+ )?(?:hotels|hostels|resorts|houses|homestays|owners|partners|properties|places)|"
    r"(?:hotels?|place|house|resort|hostel|homestay|inn) (?:next door|across|nearby|down the|around the|opposite|around you|in your (?:street|area|town|city)|next to|near|beside|behind|by the|close to)|next door|everyone else|everybody else|all (?:the )?others)\b[^.!?]{0,25}?"
    r"\b(?:already|(?:ha(?:s|ve)|'ve) (?:\w+ )?(?:agreed|accepted|dropped|cut|lowered|reduced|signed|joined|sold|doubled|gained|given|gone|moved)|did|dropped|lowered|agreed|gave|joined|sold|signed|accepted|reduced|moved|"
    r"(?:sells?|offers?|is|charges?|asks|lists?)\b[^.!?]{0,25}\b(?:cheaper|less|lower|below|under)|doubled|saw (?:more|an?|their|\d)|gained|earns?|pays? us|(?:are|is|were|was) (?:\w+ )?(?:empty|full|quiet|desperate|happy)|(?:offers?|charges?|gives?|does|do) (?:us )?(?:only )?\d)\b",
    re.IGNORECASE,
)
#: Words put into the mouth of guests or of studies.
_QUOTED = re.compile(
    r"\b(?:reviews?|surveys?|studies|statistics|experts?|guests|customers|travell?ers) (?:\w+ ){0,3}?(?:say|says|said|tell us|told (?:us|me)|complain\w*|prove\w*|confirm\w*|write|wrote)\b",
    re.IGNORECASE,
)
_SALES = re.compile(
    r"\b(?:guests?|occupancy|bookings?|orders?|sales|sold|sell\w*|conversions?|revenue|income|clicks?|views?|traffic|stays|visitors?|travell?ers?|demand)\b",
    re.IGNORECASE,
)
#: How often or how many, as nobody can know: `two a night`, `fifteen per week`, `a hundred percent`.
_FREQUENCY = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|fifteen|twenty|thirty|forty|fifty|dozens?|\d{1,2})(?: (?:more|extra|bookings?|orders?|guests?|rooms?|stays?|new))* "
    r"(?:a|per|each|every) (?:day|night|week|weekend|month|year)\b|\b(?:\d+|one|two|three|seven|eight|nine) (?:in|out of) (?:\d+|two|three|four|five|ten)\b|\b\d{2,} (?:more )?(?:guests|visitors|people|travell?ers|customers|searches|clicks|views|bookings|orders)\b|\b(?:hundred|fifty|thirty|twenty|forty|sixty) percent\b",
    re.IGNORECASE,
)
#: Agreement with a figure that somebody has just named.
_AFFIRMS = re.compile(
    r"^\W*(?:yes|yeah|right(?! now)|exactly|indeed|correct|true|you(?:'re| are) (?:\w+ )?(?:right|correct)|that's (?:right|correct|true)|of course|absolutely)\b",
    re.IGNORECASE,
)
#: `Not 677`: a figure that is put right.
_DENIED = re.compile(
    r"\b(?:not|no longer|rather than|instead of|never|used to be|may (?:well )?have been|might have been|was (?:once|before)|isn't|wasn't)"
    r"(?: \w+){0,2}\s+(?:cny |rmb |[¥￥])?$",
    re.IGNORECASE,
)
_WISH = re.compile(
    r"\b(?:could|would|can|if|so that|to|should|might|may|want|hope)\b[^.!?]*$", re.IGNORECASE
)


def number_issues(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> list[Issue]:
    """Findings on every amount, comparison, percentage and date of the reply."""
    spoken = {a.value for m in messages if m.role != "system" for a in find_amounts(m.content)}
    issues = [
        i
        for s in reply.sentences
        for m in s.mentions
        if not (m.value in spoken and _DENIED.search(_before(s.text, m.value)))
        and (i := _amount_issue(m, scenario, spoken)) is not None
    ]
    issues += _comparisons(reply, scenario)
    issues += _affirmed(reply, scenario)
    issues += _hearsay(reply, scenario, messages)
    issues += _percentages(reply, scenario, messages)
    issues += _dates(reply, scenario, messages)
    return issues


def _before(text: str, value: int) -> str:
    """The words before the first mention of an amount."""
    return next((text[: a.start] for a in find_amounts(text) if a.value == value), "")


def _amount_issue(m: Mention, scenario: Scenario, spoken: set[int]) -> Issue | None:
    items = [scenario.item(m.ticket)] if m.ticket else list(scenario.items)
    if m.difference:
        return _difference_issue(m, scenario, spoken)
    if m.role in ("selling", "competitor") and m.act != "accepts":
        return _stated_price_issue(m, items, scenario, spoken)
    if m.act in ("asks", "confirms", "accepts", "claims_consent"):
        return _deal_amount_issue(m, items, scenario)
    if m.role == "net":
        if any(m.value in (i.net, i.quote) for i in items):
            return None
        if any(m.value in (i.selling, i.competitor) for i in items):
            return _mixup(m)
        known = m.value in spoken or any(m.value == i.target for i in items)
        return None if known else _invented(m)
    if any(m.value in (*i.facts, i.target) for i in items) or m.value in spoken:
        return None
    if m.ticket and any(m.value in i.facts for i in scenario.items):
        return Issue(
            "ticket_mixup", "major", f"{m.value} belongs to another ticket than {m.ticket}"
        )
    return _invented(m)


def _stated_price_issue(
    m: Mention, items: Sequence[Item], scenario: Scenario, spoken: set[int]
) -> Issue | None:
    name = "selling" if m.role == "selling" else "competitor"
    known = any(v is not None for i in items for v in (i.selling, i.net))
    if m.role == "competitor" and known and all(i.competitor is None for i in items):
        told = m.value in spoken
        return None if told else _invented(m)
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


def _leading_number(text: str) -> int | None:
    digits = re.match(r"\d+", text)
    return int(digits.group()) if digits else None


def _affirmed(reply: Reply, scenario: Scenario) -> Iterator[Issue]:
    """Agreement with a figure that is no price of this scenario."""
    facts = {v for i in scenario.items for v in (*i.facts, i.target, i.mandate)}
    for s in reply.sentences:
        for m in s.mentions:
            if (
                m.act == "states"
                and not m.difference
                and m.value not in facts
                and _AFFIRMS.search(s.text)
            ):
                yield Issue(
                    "wrong_fact_amount", "major", f"agrees to {m.value}, which is no price here"
                )


def _hearsay(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> Iterator[Issue]:
    """Doings of other hotels, and cheaper offers elsewhere where no such price is known."""
    for s in reply.sentences:
        if match := _NEIGHBOURS.search(s.text) or _QUOTED.search(s.text):
            yield Issue("unsourced_claim", "major", f"nobody said so: {match.group()!r}")
            return
    unknown = any(i.selling for i in scenario.items) and not any(
        i.competitor for i in scenario.items
    )
    told = any(_OTHERS_LOWER.search(m.content) for m in messages)
    for s in reply.sentences:
        match = _OTHERS_LOWER.search(s.text)
        if unknown and not told and match and not _WISH.search(s.text[: match.start()][-30:]):
            yield Issue("unsourced_claim", "major", "no price of another site is known here")
            return


def _percentages(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> Iterator[Issue]:
    """A percentage is a difference of two prices or was said before; of sales nothing is known."""
    said = {p for m in messages for p in find_percentages(m.content)}
    gaps = set()
    prices = {v for i in scenario.items for v in (*i.facts, i.target, i.mandate)}
    for i in scenario.items:
        for a, b in (
            (i.selling, i.competitor),
            (i.net, i.target),
            (i.net, i.quote),
            (i.quote, i.target),
        ):
            if a and b:
                gaps |= {100 * abs(a - b) / a, 100 * abs(a - b) / b}
    for s in reply.sentences:
        true = said if _SALES.search(s.text) else said | gaps
        for percentage in find_percentages(s.text):
            if not any(abs(percentage - t) <= 0.75 for t in true):
                yield Issue("invented_statistic", "major", f"{percentage:g}% has no source here")
        match = _FREQUENCY.search(s.text)
        price = match and _leading_number(match.group()) in prices
        if (
            match
            and not price
            and not any(match.group().lower() in m.content.lower() for m in messages)
        ):
            yield Issue("invented_statistic", "major", f"no source here: {match.group()!r}")


def _dates(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> Iterator[Issue]:
    if scenario.check_in is None:
        return
    said = {d for m in messages for d in find_dates(m.content)}
    known = said | {(scenario.check_in.month, scenario.check_in.day)}
    for month, day in find_dates(reply.text):
        if (month, day) not in known:
            yield Issue("wrong_date", "major", f"{month:02d}-{day:02d} is not the check-in date")
