"""Money in a sentence: which price an amount is, of which ticket, and what is done with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from repo_ray.evaluation.gold.amounts import Amount, find_amounts
from repo_ray.evaluation.gold.scenario import Item, Scenario

Role = Literal["selling", "competitor", "net", "unsaid"]
Act = Literal["states", "asks", "accepts", "claims_consent", "declines", "confirms"]


_BREAK = re.compile(
    r"[,;:—–]|\b(?:while|but|whereas|against|versus|vs|and|so|compared|than|though|when|with)\b",
    re.IGNORECASE,
)

_ROLE_CUES: dict[Role, re.Pattern[str]] = {
    "competitor": re.compile(
        r"\b(?:compet\w+|elsewhere|rivals?|(?:other|another|different|rival) (?:\w+ )?"
        r"(?:platforms?|portals?|channels?|sites?|apps?|websites?|web|marketplaces?|aggregators?|booking engines?|search engines?|sellers?|resellers?|wholesalers?|providers?|"
        r"shops?|travel companies|otas?|agenc\w+|pages?|places?|screens?)|others|someone else|somebody else|over there|"
        r"the market|market price|comparable (?:hotels|rooms))\b",
        re.IGNORECASE,
    ),
    "selling": re.compile(
        r"\b(?:selling price|we sell (?:\w+ ){0,3}(?:for|at)|sale price|retail(?: price)?|"
        r"display(?:ed)? (?:price )?|list(?:ed|ing)? price|shelf price|guest price|public price|"
        r"(?:on|through|via) (?:our|ours|my) \w+|our (?:page|platform|app|site|listing|price|rate|display)|"
        r"with us|ours (?:is|shows|at)|we (?:show|list|sell|display)|listed (?:here|with us)|"
        r"on our side|here|our (?=[\d¥])|ours)\b|\bour (?=[\d¥])",
        re.IGNORECASE,
    ),
    "net": re.compile(
        r"\b(?:net(?: price| rate)?|settle(?:ment)?(?: price| rate)?|base (?:price|rate)|cost price|contract(?:ed)? (?:price|rate)|"
        r"your (?:price|rate|offer|quote|number|figure) (?:to|for) us|you(?:'re| are)? (?:give|giving|charge|"
        r"charging|offer|offering|quote|quoted)(?: us)?|we pay you|your (?:quote|offer|\d))\b",
        re.IGNORECASE,
    ),
}
_ASK_PREPOSITION = re.compile(
    r"\b(?:to|at|of|for|do|does|accept|offer|give us|with|around|about|near|toward\w*|reach|try|consider|"
    r"like|is|be|meet (?:us|me)|on|as low as|below|under|just|only|exactly|even|net|price|it|how about|"
    r"what about|think of|say)\s*(?:a |about |around |just |only )*(?:net )?(?:cny|rmb|yuan|[¥￥])?\s?$",
    re.IGNORECASE,
)
_FROM = re.compile(
    r"\b(?:from|current\w*|now|instead of|than|not)\s*(?:at |is |of )?(?:the )?(?:cny|rmb|[¥￥])?\s?$",
    re.IGNORECASE,
)
#: What links a price's name to its amount: `the net price, which is 371`.
_COPULA = re.compile(
    r"[\s,(]*(?:(?:which|that|it|now|currently|still|here) )*(?:is|was|at|of|stands at|being|=|:)[\s:]*(?:(?:now|currently|still|about) )*(?:cny|rmb|[¥￥])?\s?",
    re.IGNORECASE,
)
_GAP = re.compile(
    r"\b(?:gap|difference|distance|between|apart|spread|instead of|rather than|compared)\b",
    re.IGNORECASE,
)
#: Characters from which a cue says nothing of an amount any more.
_FAR = 60.0
#: Characters between a cue and an amount up to which the cue outweighs the facts.
_NEAR = 20.0
_JOINED = re.compile(
    r"\s*(?:net |yuan |a night |per night )*(?:(?:for|on) [^.;:?!]{1,40})?(?:,|,? and)\s*(?:cny|rmb|[¥￥])?\s?",
    re.IGNORECASE,
)
_FOR = re.compile(r"[^\d.,;:!?]{0,14}\b(?:for|on)\s+(?:the |your )?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    """One amount in the reply. `ticket` is None when the words leave it open."""

    value: int
    role: Role
    act: Act
    ticket: str | None
    difference: bool
    words: str


def coordinate(
    sentence: str, amounts: Sequence[Amount], mentions: Sequence[Mention], items: Sequence[Item]
) -> tuple[Mention, ...]:
    """`380 for the king and 276 for the twin`: the second amount is what the first one is."""
    quotes = {i.quote for i in items if i.quote is not None}
    result: list[Mention] = []
    for i, mention in enumerate(mentions):
        if i and mention.role == "unsaid" and not mention.difference:
            between = sentence[amounts[i - 1].end : amounts[i].start]
            other = {"selling": "competitor", "competitor": "selling"}.get(result[-1].role)
            belongs_elsewhere = other and mention.value in {
                i.selling if other == "selling" else i.competitor for i in items
            }
            joined = _JOINED.fullmatch(between) and not belongs_elsewhere
            if joined and not result[-1].difference:
                mention = replace(mention, role=result[-1].role, act=result[-1].act)
        result.append(mention)
    for n in range(len(result) - 2, -1, -1):
        # "With 438 and 456 on other sites": the first amount is what the second one is.
        this, following = result[n], result[n + 1]
        between = sentence[amounts[n].end : amounts[n + 1].start]
        guests = following.role in ("selling", "competitor") and not following.difference
        known = {i.selling if following.role == "selling" else i.competitor for i in items}
        if guests and this.role == "unsaid" and this.value in known and _JOINED.fullmatch(between):
            result[n] = replace(this, role=following.role, act=following.act)
    guest_prices = {v for i in items for v in (i.selling, i.competitor)}
    for n, this in enumerate(result):
        # "Would 136 work if it filled nights that stay empty at 176?": 176 is what guests pay.
        beside = [
            m
            for m in result
            if m.act == "asks" and m.value not in guest_prices and m.ticket in (this.ticket, None)
        ]
        if beside and this.act == "asks" and this.role == "unsaid" and this.value in guest_prices:
            result[n] = replace(this, act="states")
    asked = [m.value for m in result if m.act == "asks" and not m.difference]
    return tuple(
        # "612 is still a stretch, would 571 be possible?" asks for the lower of the two.
        replace(m, act="states")
        if m.act == "asks" and m.value in quotes and m.value > min(asked)
        else m
        for m in result
    )


def ticket_spots(sentence: str, scenario: Scenario) -> list[tuple[int, str]]:
    """(position, ticket) of each ticket named by id or by words of its room name, in order."""
    spots = []
    for item in scenario.items:
        names = [rf"\b{re.escape(item.ticket)}\b"]
        if item.room:
            names.append(rf"\b{re.escape(item.room)}s?\b")
        names += [rf"\b{re.escape(w)}s?\b" for w in scenario.room_words.get(item.ticket, ())]
        spots += [
            (m.start(), item.ticket) for n in names for m in re.finditer(n, sentence, re.IGNORECASE)
        ]
    return sorted(set(spots))


def names_ticket(text: str, scenario: Scenario) -> bool:
    """The text names one of the tickets, by id or by its room."""
    return bool(ticket_spots(text, scenario))


def mention_of(
    sentence: str,
    amount: Amount,
    act: Act,
    spots: Sequence[tuple[int, str]],
    current: str | None,
    scenario: Scenario,
) -> Mention:
    ticket = _nearest_ticket(sentence, amount, spots, current)
    candidates = [scenario.item(ticket)] if ticket else list(scenario.items)
    role = role_of(sentence, amount, candidates)
    before = sentence[: amount.start]
    own_act = act
    if amount.difference:
        own_act = "states"
    elif act in ("asks", "confirms"):
        stated = (
            _is_gap(sentence, amount, candidates)
            or (
                _FROM.search(before) is not None
                and any(amount.value in (*i.facts, i.net) for i in candidates)
            )
            or (role in ("selling", "competitor") and _is_fact(amount.value, role, candidates))
            or (role == "net" and any(i.net == amount.value for i in candidates))
        )
        asked = _ASK_PREPOSITION.search(before) is not None
        known = any(amount.value in i.facts and amount.value != i.quote for i in candidates)
        if stated or (known and not asked and role != "net"):
            own_act = "states"
        elif act == "confirms" and all(amount.value != i.quote for i in candidates):
            own_act = "asks"
    elif act in ("accepts", "claims_consent") and role in ("selling", "competitor"):
        own_act = "states"
    return Mention(amount.value, role, own_act, ticket, amount.difference, sentence)


def _is_fact(value: int, role: Role, items: Sequence[Item]) -> bool:
    return any(value == (i.selling if role == "selling" else i.competitor) for i in items)


def _nearest_ticket(
    sentence: str, amount: Amount, spots: Sequence[tuple[int, str]], current: str | None
) -> str | None:
    """The ticket named last before the amount, else the next one after it (`380 for the king`)."""
    before = [t for position, t in spots if position < amount.start]
    after = [t for position, t in spots if position >= amount.end and position - amount.end < 25]
    following = next((position for position, _ in spots if position >= amount.end), None)
    if following is not None and _FOR.fullmatch(sentence[amount.end : following]):
        return after[0] if after else current
    if before:
        return before[-1]
    return after[0] if after else current


def _is_gap(sentence: str, amount: Amount, items: Sequence[Item]) -> bool:
    """`The gap from 231 to 215`: both guest prices of a ticket, one named as far from the other."""
    for i in items:
        pair = (i.selling, i.competitor)
        if amount.value in pair and None not in pair and _GAP.search(sentence):
            named = {a.value for a in find_amounts(sentence)}
            return named >= set(pair)
    return False


def _gap_to(cue: re.Match[str], amount: Amount) -> int:
    """Characters between a cue and an amount."""
    return max(amount.start - cue.end(), cue.start() - amount.end)


def role_of(sentence: str, amount: Amount, items: Sequence[Item]) -> Role:
    """The price that the nearest cue names; a clause border or another amount between counts far.

    A cue that is not near yields to the facts: an amount that is a known price of its ticket is
    read as that price.
    """
    before = sentence[max(amount.start - 80, 0) : amount.start]
    for role, pattern in _ROLE_CUES.items():
        for cue in pattern.finditer(before):
            named = cue.group().lower().endswith(("price", "rate", "net"))
            if named and _COPULA.fullmatch(before[cue.end() :]):
                return role
    best: tuple[float, Role] = (_FAR, "unsaid")
    amounts = find_amounts(sentence)
    others = [a.start for a in amounts if a.start != amount.start]
    for role, pattern in _ROLE_CUES.items():
        for cue in pattern.finditer(sentence):
            if cue.end() <= amount.start:
                low, high = cue.end(), amount.start
            else:
                low, high = amount.end, cue.start()
            distance = float(max(high - low, 0))
            if distance > _FAR:
                continue
            # A cue right beside another amount belongs to that one.
            if any(_gap_to(cue, a) <= 2 < distance for a in amounts if a != amount):
                distance += 25
            distance += 45 * sum(low <= start < high for start in others)
            distance += 40 * len(_BREAK.findall(sentence[low:high])) if high > low else 0
            best = min(best, (distance, role))
    if best[0] > _NEAR:
        kinds: dict[Role, set[int | None]] = {
            "selling": {i.selling for i in items},
            "competitor": {i.competitor for i in items},
        }
        matching: list[Role] = [role for role, known in kinds.items() if amount.value in known]
        if len(matching) == 1 and best[1] in kinds:
            return matching[0]
        if best[1] in kinds and any(amount.value in (i.net, i.quote) for i in items):
            return "unsaid"
    return best[1]
