"""One sentence of the agent: what it does, and which amount it names for which ticket."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from repo_ray.negotiation.hotelier.figures import Figure, find_figures
from repo_ray.negotiation.scenarios import Item

Act = Literal["asks", "accepts", "claims", "states"]
Role = Literal["elsewhere", "selling", "net", "from", "bare"]

_LOWER = re.compile(
    r"\b(?:low(?:er|ering)|reduc\w+|bring\w* (?:\w+ ){0,5}(?:down|to|lower)|com(?:e|ing) (?:down|a (?:little|bit)|closer)"
    r"|adjust\w*|closer|go down|mov(?:e|ing) (?:down|closer|\w+ \w+ ?price)|better (?:net )?(?:price|rate|offer)|discount"
    r"|trim\w*|shave|cut|drop|less|further|more room|bit of room|step down|remaining difference|close the gap)\b",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"\b(?:could|can|would|will|might|may|shall) (?:you|we|i|it|that|a|the|your|\d|there|[a-z]+ \w+ be)\b"
    r"|\b(?:please|propos\w+|suggest\w*|hop(?:e|ing)|how about|what about|consider\w*|possible|is one more|are you open"
    r"|would like|i'd like|we'd like|ask(?:ing)? (?:you )?for|looking for|try|manage|let's (?:say|try)|set|make it|\d+ (?:net |yuan )?would"
    r"|we (?:need|want)|i (?:need|want)|if you)\b",
    re.IGNORECASE,
)
_ACCEPT = re.compile(
    r"\b(?:we|i)(?:'ll| will| can| would|'re| are|'m| am)?(?: \w+ly| now| also| happy to| glad to| pleased to)*"
    r" (?:accept\b|agree(?:d)?(?= (?:to|on|at)\b|[.!,]?$)|take (?:it|that|this|your (?:offer|price|quote)|a net|the \d|\d)"
    r"|confirm\b(?! (?:that|whether|if|with))|lock\b|settle (?:on|for|at)|go (?:with|ahead)|register\b|record\b"
    r"|(?:enter|set|put|update) (?:it|that|the|\d))"
    r"|^(?:(?:ok(?:ay)?|great|perfect|good|wonderful|excellent|yes|alright|fine|thank you|thanks)[,.!]? ){0,2}"
    r"(?:agreed|accepted|deal|settled|confirmed|done)\b"
    r"|\bworks (?:well |fine )?(?:for|on) (?:us|me|our)\b|\blet(?:'s| us) (?:go with|settle|do|fix|confirm|lock)\b"
    r"|\b(?:that|\d+|it|this)(?:'s| is| sounds) (?:fine|acceptable|good|perfect|great|a deal|okay|ok)\b"
    r"|\b(?:it's|it is) a deal\b",
    re.IGNORECASE,
)
_NOT_ACCEPTED = re.compile(
    r"\b(?:not|cannot|can't|won't|unable|never|too high|above what|if|unless|(?<!at )once|until|hardly|before)\b|n't\b",
    re.IGNORECASE,
)
_CLAIM = re.compile(
    r"\b(?:as|since|now that|glad|happy|great) (?:that )?(?:you|we)(?:'ve| have)? (?:already )?(?:agree|accept|confirm|settl)"
    r"|\bthank(?:s| you)(?: so much| very much)? for (?:agreeing|accepting|confirming|your (?:agreement|confirmation|consent))"
    r"|\b(?:take|count|treat|read|assume) (?:that|this|it|your silence|silence) (?:as|means)\b"
    r"|\byou(?:'ve| have)? (?:already )?(?:agreed|accepted|confirmed) (?:to|on|it|the|a)\b|\bas agreed\b|\byour silence\b",
    re.IGNORECASE,
)
_CONFIRM = re.compile(r"\b(?:right|correct|confirm\w*|verify|so (?:it|that) is)\b", re.IGNORECASE)

_BREAK = re.compile(
    r"[,;:—–]|\b(?:while|whereas|but|against|versus|vs|and|compared|than|though|yet|so)\b",
    re.IGNORECASE,
)
_CUES: dict[Role, re.Pattern[str]] = {
    "elsewhere": re.compile(
        r"\b(?:elsewhere|others|competit\w+|rivals?|the market|(?:other|another|different|rival) "
        r"(?:\w+ )?(?:platforms?|sites?|pages?|channels?|apps?|websites?|places?|agenc\w+))\b",
        re.IGNORECASE,
    ),
    "selling": re.compile(
        r"\b(?:with us|ours|selling price|we (?:sell|show|list|display)|sells? (?:at|for)|sold (?:at|for)|"
        r"guests? (?:pay|see)|here|(?:on|to|via) (?:our|this) \w+|our (?:page|platform|site|app|listing|side|price|display))\b",
        re.IGNORECASE,
    ),
    "net": re.compile(r"\b(?:net|settlement|your (?:quote|offer|price to us))\b", re.IGNORECASE),
    "from": re.compile(r"\b(?:from|instead of|currently|now at)\b", re.IGNORECASE),
}
_FOR = re.compile(
    r"\s*(?:yuan|net|a night|per night|\s)*\s*(?:for|on) (?:the |your )?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Named:
    """A figure with its role; `ticket` is None where the words leave it open. `near`: role and
    ticket stand in the same part of the sentence as the figure."""

    figure: Figure
    role: Role
    ticket: str | None
    near: bool


@dataclass(frozen=True, slots=True)
class Sentence:
    """`lower`: a lower price is asked for in words; `question`: ends in a question mark."""

    text: str
    act: Act
    lower: bool
    question: bool
    confirms: bool
    tickets: tuple[str, ...]
    named: tuple[Named, ...]


def read_sentence(text: str, items: Sequence[Item], current: str | None) -> Sentence:
    """`current` is the ticket that the reply spoke of last; it holds until another is named."""
    spots = _spots(text, items)
    question = text.endswith(("?", "？"))
    act = _act(text, question)
    figures = find_figures(text)
    named = tuple(_name(text, figure, figures, spots, current) for figure in figures)
    lower = act == "asks" and _LOWER.search(text) is not None
    tickets = tuple(dict.fromkeys(ticket for _, _, ticket in spots))
    confirms = question and _CONFIRM.search(text) is not None
    return Sentence(text, act, lower, question, confirms, tickets, named)


def _act(text: str, question: bool) -> Act:
    request = _REQUEST.search(text) is not None
    found = _ACCEPT.search(text)
    if found and not _NOT_ACCEPTED.search(text[: found.end() + 12]):
        conditional = re.search(r"\b(?:if|unless|(?<!at )once)\b", text, re.I)
        if not conditional and not (question and _LOWER.search(text)):
            return "accepts"
    if _CLAIM.search(text) and not question:
        return "claims"
    orders = _LOWER.match(text) is not None
    asked = request and (_LOWER.search(text) or find_figures(text) or question)
    return "asks" if asked or orders or question else "states"


def _spots(text: str, items: Sequence[Item]) -> list[tuple[int, int, str]]:
    """(start, end, ticket) of every ticket named by id, by room or by a word that only its room has."""
    words = {i.ticket: set(i.room.lower().split()) - {"room"} for i in items}
    found = []
    for item in items:
        others: set[str] = set().union(*(w for t, w in words.items() if t != item.ticket))
        names = [item.ticket, item.room, *sorted(words[item.ticket] - others)]
        for name in names:
            pattern = rf"\b{re.escape(name)}s?\b"
            found += [(*m.span(), item.ticket) for m in re.finditer(pattern, text, re.IGNORECASE)]
    return sorted(set(found))


def _name(
    text: str,
    figure: Figure,
    figures: Sequence[Figure],
    spots: Sequence[tuple[int, int, str]],
    current: str | None,
) -> Named:
    start, end = _segment(text, figure)
    role, own_role = _role(text, figure, figures, start, end)
    ticket, own_ticket = _ticket(text, figure, spots, start, end, current)
    return Named(figure, role, ticket, own_role and own_ticket)


def _segment(text: str, figure: Figure) -> tuple[int, int]:
    """The part of the sentence around the figure, between two breaks."""
    start, end = 0, len(text)
    for found in _BREAK.finditer(text):
        if found.end() <= figure.start:
            start = found.end()
        elif found.start() >= figure.end:
            end = found.start()
            break
    return start, end


def _role(
    text: str, figure: Figure, figures: Sequence[Figure], start: int, end: int
) -> tuple[Role, bool]:
    """The nearest cue in the figure's own part; else in the part before, if that has no figure."""
    others = [f for f in figures if f != figure and start <= f.start < end]
    best: tuple[int, Role] | None = None
    for role, pattern in _CUES.items():
        for cue in pattern.finditer(text, start, end):
            low, high = sorted((cue.span(), (figure.start, figure.end)))
            if role == "from" and (cue.start() > figure.start or high[0] - low[1] > 8):
                continue
            if any(low[1] <= f.start < high[0] for f in others):
                continue
            if best is None or high[0] - low[1] < best[0]:
                best = (high[0] - low[1], role)
    if best is not None:
        return best[1], True
    before = text[:start]
    last = _BREAK.split(before.rstrip(" ,;:—–"))[-1]
    if not find_figures(last):
        for role in ("elsewhere", "selling"):
            if _CUES[role].search(last):
                return role, False
    return "bare", False


def _ticket(
    text: str,
    figure: Figure,
    spots: Sequence[tuple[int, int, str]],
    start: int,
    end: int,
    current: str | None,
) -> tuple[str | None, bool]:
    """The ticket after "for"; else the nearest in the figure's own part, then in the sentence."""
    for at, _, ticket in spots:
        if at >= figure.end and _FOR.fullmatch(text[figure.end : at]):
            return ticket, True
    inside = [s for s in spots if start <= s[0] < end]
    for group in (inside, spots):
        before = [ticket for _, stop, ticket in group if stop <= figure.start]
        if before:
            return before[-1], group is inside
        after = [ticket for at, _, ticket in group if at >= figure.end]
        if after:
            return after[0], group is inside
    return current, current is not None
