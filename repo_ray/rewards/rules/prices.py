"""Rules about amounts: invented, outside the mandate, mixed up, or rightly used."""

from __future__ import annotations

import re
from collections.abc import Mapping

from repo_ray.records import Prompt
from repo_ray.rewards.rules.acts import accepts, agreed_amounts, asked_amounts, proposes, takes
from repo_ray.rewards.rules.facts import Facts, Item, facts
from repo_ray.rewards.rules.registry import rule
from repo_ray.rewards.rules.text import Amount, amounts, sentences

_DIFFERENCE = re.compile(
    r"\b(?:lower|less|below|under|cheaper|higher|above|over|more|off|gap|differences?|reduction"
    r"|discount|savings?|saves?|saving|cut|apart|short|drop|spread|margin|by|extra|additional)\b",
    re.IGNORECASE,
)
#: What kind of price an amount is called. A phrase before it reaches further than one after it:
#: "the net price that we have is 380".
_KINDS = {
    "selling": re.compile(
        r"\bsell(?:s|ing)?\b(?: (?:price|rate))?|\b(?:guests?|travell?ers?|customers?)(?: \w+)? (?:see|pay|find|book)"
        r"|\blisted\b|\b(?:on|through) (?:our|my|the|your) (?:platform|page|site|app)\b"
        r"|\belsewhere\b|\bcompetitors?\b|\bcompeting\b|\bother (?:sites?|platforms?|channels?)\b"
        r"|\b(?:retail|public|display(?:ed)?) (?:price|rate)",
        re.IGNORECASE,
    ),
    "net": re.compile(
        r"\bnet\b(?: (?:price|rate))?|\bsettlement (?:price|rate)\b|\bpay you\b", re.IGNORECASE
    ),
}
#: Where guests see a price. Such a phrase mostly follows it: "468 with us and 439 elsewhere".
_PLACES = {
    "ours": re.compile(
        r"\bwith us\b|\bours\b|\bhere\b|\bour (?:platform|page|site|app)\b",
        re.IGNORECASE,
    ),
    "elsewhere": re.compile(
        r"\belsewhere\b|\bcompetitors?\b|\b(?:other|competing) (?:sites?|platforms?|channels?)\b",
        re.IGNORECASE,
    ),
}
_CLAUSE = re.compile(r",\s|[;:()]|\s[-–—]\s|\b(?:and|while|whereas|but|so|against|versus|vs)\b")
_FOR = re.compile(
    r"\s*(?:yuan)?\s*(?:net)?\s*(?:(?:per|a|/)\s?night)?\s*(?:for|on)\s+(?:your |the |our )?",
    re.IGNORECASE,
)
_REACH = 100  # characters within which words can name an amount
_LOWER_SELLING = re.compile(
    r"\b(?:lower|reduce|reducing|lowering|cut|cutting|drop|adjust|bring down|trim)\s+"
    r"(?:your|the|this|that|its)?\s*(?:selling|retail|public|listed|display(?:ed)?)\s+(?:price|rate)",
    re.IGNORECASE,
)


@rule("number_not_in_context")
def number_not_in_context(
    reply: str, prompt: Prompt, *, smallest_bare: float = 50.0, concessions: bool = True
) -> str | None:
    """An amount that nobody has named.

    Right are: any price in the facts or in an earlier message; a difference of two such amounts
    where the words speak of one ("29 below"); and, with `concessions`, in a sentence that
    proposes a price, an amount between target and mandate of an open item. Bare numbers below
    `smallest_bare` are not taken for amounts.
    """
    known_facts = facts(prompt)
    if known_facts is None:
        return None
    known = _known_amounts(known_facts, prompt, smallest_bare)
    differences = {abs(a - b) for a in known for b in known if a != b}
    for sentence in sentences(reply):
        for amount in amounts(sentence, smallest_bare):
            if amount.value in known:
                continue
            if amount.value in differences and _speaks_of_difference(sentence, amount):
                continue
            proposal = concessions and proposes(sentence) and _kind(sentence, amount) != "selling"
            if proposal and _within_range(known_facts, amount.value):
                continue
            return f"{amount.value:g} is in neither the facts nor the conversation"
    return None


@rule("price_outside_mandate")
def price_outside_mandate(reply: str, prompt: Prompt) -> str | None:
    """Accepts, offers to pay or asks for more than the mandate; accepting without an amount means
    the hotelier's quote."""
    known = facts(prompt)
    if known is None:
        return None
    for sentence in sentences(reply):
        meant = known.meant_by(sentence)
        widest = max((i.mandate for i in meant if i.mandate is not None), default=None)
        for amount in agreed_amounts(sentence) + asked_amounts(sentence):
            item = _item_of(known, sentence, amount)
            limit = item.mandate if item is not None else widest
            if limit is not None and amount.value > limit and _kind(sentence, amount) != "selling":
                return f"agrees to or asks for {amount.value:g}, above the mandate of {limit:g}"
        if accepts(sentence) and not amounts(sentence):
            for item in meant:
                if not item.agreed and item.quote and item.mandate and item.quote > item.mandate:
                    return f"accepts the quote of {item.quote:g} for {item.ticket}, above the mandate of {item.mandate:g}"
    return None


@rule("price_misattributed")
def price_misattributed(reply: str, prompt: Prompt) -> str | None:
    """A true price at the wrong place: another ticket's, or ours and elsewhere exchanged."""
    known = facts(prompt)
    if known is None:
        return None
    ours = {i.selling_price for i in known.items}
    elsewhere = {i.competitor_price for i in known.items}
    for sentence in sentences(reply):
        for amount in amounts(sentence):
            item = _item_of(known, sentence, amount)
            if (
                item is not None
                and amount.value not in item.amounts
                and not item.in_range(amount.value)
            ):
                owner = next((i for i in known.items if amount.value in i.amounts), None)
                if owner is not None:
                    return f"{amount.value:g} is a price of {owner.ticket}, not of {item.ticket}"
            place = _nearest(_PLACES, sentence, amount)
            if place == "elsewhere" and amount.value in ours - elsewhere:
                return f"{amount.value:g} is our selling price, not the one elsewhere"
            if place == "ours" and amount.value in elsewhere - ours:
                return f"{amount.value:g} is the price elsewhere, not our selling price"
    return None


@rule("pursues_settled_price")
def pursues_settled_price(reply: str, prompt: Prompt) -> str | None:
    """Asks for less than the price that is already agreed for a ticket."""
    known = facts(prompt)
    if known is None:
        return None
    for sentence in sentences(reply):
        for amount in asked_amounts(sentence):
            item = _item_of(known, sentence, amount)
            if item is not None and item.agreed and item.quote and amount.value < item.quote:
                return f"asks for {amount.value:g} for {item.ticket}, agreed at {item.quote:g}"
    return None


@rule("selling_net_confusion")
def selling_net_confusion(reply: str, prompt: Prompt) -> str | None:
    """Calls a selling price net or a net price selling, or asks to lower the selling price."""
    known = facts(prompt)
    if known is None:
        return None
    if found := _LOWER_SELLING.search(reply):
        return f"asks for another selling price, not a lower net price: {found[0]!r}"
    net = {a for item in known.items for a in item.net_amounts}
    selling = {a for item in known.items for a in item.selling_amounts}
    for sentence in sentences(reply):
        for amount in amounts(sentence):
            role = _kind(sentence, amount)
            if role == "net" and amount.value in selling - net:
                return f"{amount.value:g} is a selling price but is called net"
            if role == "selling" and amount.value in net - selling:
                return f"{amount.value:g} is a net price but is called a selling price"
    return None


@rule("accept_at_target_missed")
def accept_at_target_missed(reply: str, prompt: Prompt) -> str | None:
    """A quote is already at or below target and the reply does not accept it."""
    known = facts(prompt)
    if known is None:
        return None
    for item in known.open_items:
        if item.quote_at_target and not _accepted(reply, known, item):
            return f"the quote of {item.quote:g} for {item.ticket} is at or below {item.target_price:g} and is not accepted"
    return None


@rule("accept_at_target")
def accept_at_target(reply: str, prompt: Prompt) -> str | None:
    """Every open quote at or below target is accepted at once (a merit)."""
    known = facts(prompt)
    if known is None:
        return None
    due = [item for item in known.open_items if item.quote_at_target]
    if due and all(_accepted(reply, known, item) for item in due):
        return f"accepts {', '.join(item.ticket for item in due)} at or below target"
    return None


@rule("cites_market_price")
def cites_market_price(reply: str, prompt: Prompt, *, stages: list[str]) -> str | None:
    """Names a competitor price of an open item, rightly, as evidence (a merit) in these stages."""
    known = facts(prompt)
    if known is None or known.stage not in stages:
        return None
    prices = {i.competitor_price for i in known.open_items if i.competitor_price is not None}
    for sentence in sentences(reply):
        for amount in amounts(sentence):
            if amount.value in prices and _kind(sentence, amount) == "selling":
                return f"cites the market price {amount.value:g}"
    return None


@rule("asks_concrete_price")
def asks_concrete_price(reply: str, prompt: Prompt, *, stages: list[str]) -> str | None:
    """Asks for a definite net price between target and mandate (a merit) in these stages."""
    known = facts(prompt)
    if known is None or known.stage not in stages:
        return None
    for sentence in sentences(reply):
        if proposes(sentence):
            for amount in amounts(sentence):
                if _within_range(known, amount.value):
                    return f"asks for {amount.value:g}"
    return None


def _known_amounts(known: Facts, prompt: Prompt, smallest_bare: float) -> set[float]:
    from_facts = {a for i in known.items for a in i.net_amounts | i.selling_amounts}
    said = {a.value for m in prompt.messages for a in amounts(m.content, smallest_bare)}
    return from_facts | said


def _speaks_of_difference(sentence: str, amount: Amount) -> bool:
    around = (
        sentence[max(0, amount.start - 30) : amount.start],
        sentence[amount.end : amount.end + 30],
    )
    return any(_DIFFERENCE.search(part) for part in around)


def _within_range(known: Facts, value: float) -> bool:
    return any(item.in_range(value) for item in known.open_items)


def _accepted(reply: str, known: Facts, item: Item) -> bool:
    assert item.quote is not None
    others = {i.quote for i in known.items if i.quote is not None and i is not item}
    return any(
        takes(sentence, item.quote, others)
        or (accepts(sentence) and item in known.meant_by(sentence))
        for sentence in sentences(reply)
    )


def _kind(sentence: str, amount: Amount) -> str | None:
    return _nearest(_KINDS, sentence, amount, bonus_before=12)


def _nearest(
    cues: Mapping[str, re.Pattern[str]], sentence: str, amount: Amount, bonus_before: int = 0
) -> str | None:
    """Which of the phrases stands nearest to an amount in its clause; those before it count as
    `bonus_before` characters nearer."""
    first = max(0, amount.start - _REACH)
    start = max((m.end() for m in _CLAUSE.finditer(sentence, first, amount.start)), default=first)
    following = _CLAUSE.search(sentence, amount.end, amount.end + _REACH)
    end = following.start() if following else amount.end + _REACH
    shortest = float("inf")
    nearest = None
    for name, pattern in cues.items():
        for cue in pattern.finditer(sentence, start, end):
            if cue.start() >= amount.end:
                distance = cue.start() - amount.end
            else:
                distance = max(0, amount.start - cue.end() - bonus_before)
            if distance < shortest:
                shortest, nearest = distance, name
    return nearest


def _item_of(known: Facts, sentence: str, amount: Amount) -> Item | None:
    """The item that an amount is for: the one in "380 for the King", or the only one there is."""
    if len(known.items) == 1:
        return known.items[0]
    words_between = _FOR.match(sentence, amount.end)
    if words_between is None:
        return None
    return next((i for i in known.items if i.named_at(sentence, words_between.end())), None)
