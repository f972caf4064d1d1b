"""What the hotelier understands of the agent's reply.

Precise rather than generous: an argument counts when a readable sentence makes it, within the
first `ATTENTION` words; a false figure, a threat or a promise counts wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from repo_ray.negotiation.hotelier.figures import find_figures
from repo_ray.negotiation.hotelier.speech import Named, Sentence, read_sentence
from repo_ray.negotiation.hotelier.wording import (
    honest_about_chances,
    praises,
    presses,
    promises,
    readable,
    repeated_share,
    scripted,
    sentences_of,
    words_of,
)
from repo_ray.negotiation.scenarios import Item
from repo_ray.negotiation.situations import State
from repo_ray.records import Message

ATTENTION = 60
#: A reply of which more than this was said before is a repetition.
REPEATED = 0.6

_FELT = re.compile(
    r"\b(?:understand\w*|understood|hear (?:you|your)|i hear|see (?:why|that|your|how|guests)|i see|i know|you know|know how|know you|"
    r"sorry|apolog\w+|fair|respect|natural|right to|you are right|you're right|appreciate|thank\w*|grateful|"
    r"makes sense|imagine|feel (?:for you|that|unfair|heavy)|i feel|feels|regret|recognise|recognize|no rush|no hurry|take your time|"
    r"reasonable|must be|must have|sense|congratulations|aware|no small thing|forgive|won't keep|no pressure|hands full|worries|"
    r"not easy|tough|to want|kind of you|value (?:this|your)|goodwill|generous|works? hard)\b",
    re.IGNORECASE,
)
#: What a concern is about: `Situation.ack` -> words that take it up.
CONCERNS: dict[str, re.Pattern[str]] = {
    name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for name, words in {
        "cost": r"costs?|bills?|wages|staff|rent|margins?|profit\w*|expens\w+|break.?even|heating|laundry|renovat\w+|electricity|lose money|loss",
        "commission": r"commission\w*|fees?|deduct\w+|percentage|our (?:share|cut)|unfair",
        "demand": r"demand|season\w*|(?:busy|good|strong|quiet|slow) (?:\w+ )?weeks?|slow|quiet|calendar|these dates|fully booked|full house|occupancy|peak|holiday|fair in|festival|empty (?:rooms|house|nights|weeks)",
        "doubt": r"questions?|doubts?|to be sure|careful|s[ck]eptical|clarity|clear|surpris\w+|puzzl\w+|confus\w+|mix-?up|unclear|sceptic\w*|certainty|wary|trust",
        "busy": r"busy|hectic|brief|short|(?:bad|busy) moment|under pressure right now|guests come first|pressed for time|hands full|interrupt\w+|swamped|reception|a minute",
        "angry": r"sorry|apolog\w+|anger|angry|upset|annoy\w+|tired of|tiring|fed up|regret|worn|displeasure|frustrat\w+|irritation",
        "silence": r"no rush|no hurry|take your time|thought|think|decision|a lot at once|a moment|no pressure|consider|hesita\w+|weigh (?:it|this|that)|space",
        "refused": r"position|respect|difficult|awkward|open|honest|strongly|situation|sorry",
    }.items()
}  # fmt: skip
#: More concerns than this taken up at once is a list that fits everybody.
_SCATTERED = 2

_GUESTS: dict[str, re.Pattern[str]] = {
    kind: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for kind, words in {
        "business": r"business (?:travell?ers?|guests?|trips?)|company (?:limits?|bookers?|rates?)|corporate|expense polic\w+|office guests|weekday stays|work trips?",
        "resort": r"holiday guests|leisure (?:guests|stays|travell?ers)|families (?:planning|on)|resort (?:trip|guests|stay)|pool|beach\w*|spend on site|holidaymakers|honeymoon\w*",
        "homestay": r"homestay guests?|for a homestay|home-like|like home|cosy|cozy|host families",
        "airport": r"transit guests|airport|flight crews?|late arrivals|layovers?|stopovers?|early flights?|late flights?",
        "conference": r"conference (?:organi[sz]ers|guests)|event guests|delegates|organi[sz]ers|meeting planners|whole event",
        "boutique": r"boutique guests|design hotel|your style|your charm|design lovers|first stay",
        "hostel": r"young travell?ers|backpackers?|budget guests|cheapest good bed|dorm\w*",
    }.items()
}  # fmt: skip
_BENEFIT = re.compile(
    r"\b(?:views?|exposure|ranking|rank\w*|visib\w+|clicks?|bookings?|orders?|occupancy|empty nights|convert\w*|"
    r"steadier|stand out|lookers|shoppers|travell?ers|guests|listings?|page)\b"
    r"[^.!?]*\b(?:more|often|usually|tends?|normally|generally|likely|helps?|lifts?|brings?|earns?|early|"
    r"compare|compar\w+|first|fits?|match\w*|steadier|cheaper|drift|leave|lost|lose|attract\w*|better|by price|by cost)\b"
    r"|\b(?:more|often|usually|tends?|normally|generally|likely|sharper price|competitive rate|better price|filling)\b"
    r"[^.!?]*\b(?:views?|exposure|rank\w*|visib\w+|clicks?|bookings?|orders?|up the results|stand out|attractive)\b",
    re.IGNORECASE,
)
_INTRODUCES = re.compile(
    r"\b(?:partner team|partner desk|travel platform|booking platform|your platform|calling (?:from|about)|this is (?:the|\w+ from)|"
    r"i(?:'m| am) (?:\w+ )?(?:from|with|calling|your contact)|i (?:work with|look after)|who (?:handles|decides|manages|should i)|"
    r"person who|the one in charge|in charge of|look after the (?:rates|prices)|whoever manages|is pricing)\b",
    re.IGNORECASE,
)
_LEAVES = re.compile(
    r"\b(?:leave it (?:here|there|at that)|let (?:us|me) (?:pause|step back)|(?:will|won't|shall) (?:not )?push further|stop here|"
    r"(?:ask|have) (?:a|my|our|someone|the) (?:\w+ )?(?:colleague|manager|team|supervisor)?|hand (?:this|it) (?:over|on)|pass (?:this|it) (?:on|to)|"
    r"(?:colleague|manager|someone|team) (?:may|will|can|could) (?:\w+ )?(?:contact|call|reach|follow|get)|another day|"
    r"goodbye|good bye|bye|have a (?:good|nice|great|pleasant) (?:day|evening|week))\b",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    r"\b(?:everything(?: is|'s) (?:now )?(?:settled|agreed|done|set)|all(?: is|'s) (?:now )?(?:agreed|settled|done|set)|that completes|"
    r"we(?:'re| are) (?:all )?(?:finished|done|set)|nothing else is open|price is (?:now )?in place|change goes live)\b",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"\b(?:up to|at most|the most|maximum|max|mandate|ceiling|limit|target|as high as|no more than|highest|authori[sz]ed)\b",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"\b(?:target|max|mandate|limit)(?: price| is| of)? $", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Heard:
    """One reply as understood.

    `asks`: open ticket -> net price asked for, None for "lower" without a number. `takes`: ticket
    -> quote on the table that the agent accepts. `claimed`: ticket -> price treated as agreed that
    was never offered; `claims` says so also where no price is named. `reopens`: asks for less on a
    settled ticket. `evidence`: open tickets whose price elsewhere is stated rightly; `facts`: those
    whose price on the platform alone is. `taken_up`: concerns acknowledged in words of their own.
    `leaks`: ticket -> price disclosed as the agent's limit.
    """

    words: int
    readable: bool
    repeats: bool
    asks: Mapping[str, int | None]
    takes: Mapping[str, int]
    claimed: Mapping[str, int]
    claims: bool
    reopens: bool
    evidence: frozenset[str]
    facts: frozenset[str]
    false_figures: int
    taken_up: frozenset[str]
    courteous: bool
    scattered: bool
    fits: bool
    misfits: bool
    benefit: bool
    honest: bool
    pressure: bool
    promise: bool
    flattery: bool
    introduces: bool
    leaves: bool
    closes: bool
    inquires: bool
    leaks: Mapping[str, int]

    @property
    def empty(self) -> bool:
        return self.words == 0


def hear(reply: str, state: State, chat: Sequence[Message]) -> Heard:
    """`chat` is the dialogue before the reply, without system message. Never raises."""
    whole = _read(sentences_of(reply), state)
    noticed = " ".join(reply.split()[:ATTENTION])
    listened = _read(sentences_of(noticed), state) if noticed != reply else whole
    clear = readable(reply)
    spoken = [m.content for m in chat if m.role == "user"]
    heeded = [s for s in listened if clear and readable(s.text) and not scripted(s.text)]
    said = frozenset(round(f.value) for text in spoken for f in find_figures(text))
    deal = _deal(heeded, state)
    evidence, facts = _grounds(heeded, state)
    # The hotelier's own words given back to him are no answer.
    felt = [s.text for s in heeded if _FELT.search(s.text) and not _parrots(s.text, spoken)]
    topics = frozenset(n for n, p in CONCERNS.items() if any(p.search(t) for t in felt))
    # "Sorry" belongs to two concerns.
    scattered = len(topics - {"refused"}) > _SCATTERED
    guests = {k for k, p in _GUESTS.items() if any(p.search(s.text) for s in heeded)}
    kind = state.scenario.hotel_type
    closes = any(_CLOSES.search(s.text) for s in heeded)
    open_after = {i.ticket for i in state.open_items} - set(deal.takes)
    leaves = not deal.asks and not deal.takes and any(_LEAVES.search(s.text) for s in heeded)
    earlier = [m.content for m in chat if m.role == "assistant"]
    said_to_him = " ".join(s for s in sentences_of(reply) if not scripted(s))
    return Heard(
        words=len(words_of(reply)),
        readable=clear,
        repeats=repeated_share(said_to_him, earlier) > REPEATED,
        asks=deal.asks,
        takes=deal.takes,
        claimed=deal.claimed,
        claims=deal.unfounded or bool(deal.claimed) or (closes and bool(open_after)),
        reopens=deal.reopens,
        evidence=evidence,
        facts=facts,
        false_figures=sum(1 for _ in _false(whole, state, said)),
        taken_up=frozenset() if scattered else topics,
        courteous=bool(felt),
        scattered=scattered or len(guests) > 2,
        fits=guests == {kind} or (kind in guests and len(guests) == 2),
        misfits=bool(guests) and kind not in guests,
        benefit=any(_BENEFIT.search(s.text) for s in heeded),
        honest=any(honest_about_chances(s.text) for s in heeded),
        pressure=any(presses(s.text) and not _denies(s) for s in whole),
        promise=any(promises(s.text) for s in whole),
        flattery=praises(reply) >= 2,
        introduces=any(_INTRODUCES.search(s.text) for s in heeded),
        leaves=leaves,
        closes=closes,
        inquires=any(s.question for s in heeded),
        leaks=dict(_leaks(whole, state)),
    )


def _read(texts: Iterable[str], state: State) -> list[Sentence]:
    items = state.scenario.items
    current = state.open_items[0].ticket if len(state.open_items) == 1 else None
    found = []
    for text in texts:
        sentence = read_sentence(text, items, current)
        if len(sentence.tickets) == 1:
            current = sentence.tickets[0]
        found.append(sentence)
    return found


def _parrots(sentence: str, spoken: Sequence[str]) -> bool:
    return len(words_of(sentence)) >= 4 and repeated_share(sentence, spoken) > REPEATED


def _denies(sentence: Sentence) -> bool:
    return re.search(r"\bno pressure\b|\bwithout pressure\b", sentence.text, re.I) is not None


@dataclass(frozen=True, slots=True)
class _Deal:
    """`unfounded`: "Deal!" while nothing is on the table."""

    asks: dict[str, int | None]
    takes: dict[str, int]
    claimed: dict[str, int]
    unfounded: bool
    reopens: bool


def _deal(sentences: Sequence[Sentence], state: State) -> _Deal:
    asks: dict[str, int | None] = {}
    takes: dict[str, int] = {}
    claimed: dict[str, int] = {}
    unfounded = reopens = False
    still_open = {i.ticket for i in state.open_items}
    for s in sentences:
        amounts = list(_deal_amounts(s, state))
        on_table = {t: v for t, v in amounts if state.quotes.get(t) == v}
        # "Can we settle at 380?" asks, unless 380 is what the hotelier offers.
        seals = s.act == "claims" or (s.act == "accepts" and not s.question)
        if seals or (on_table and (s.confirms or s.act == "accepts")):
            if not amounts:
                due = [t for t in (s.tickets or sorted(still_open)) if t in still_open]
                quoted = {t: state.quotes[t] for t in due if t in state.quotes}
                takes |= quoted
                unfounded |= bool(due) and not quoted
            takes |= {t: v for t, v in on_table.items() if t in still_open}
            claimed |= {t: v for t, v in amounts if t in still_open and t not in on_table}
        elif s.act in ("asks", "accepts"):
            reopens |= any(t not in still_open for t, _ in amounts if not s.confirms)
            for ticket, value in amounts:
                if ticket in still_open:
                    # Of two amounts in one request the hotelier hears the dearer one.
                    asks[ticket] = max(value, asks.get(ticket) or 0)
            if s.lower and not amounts:
                named = s.tickets or tuple(sorted(still_open))
                reopens |= any(t not in still_open for t in s.tickets) or not still_open
                asks |= {t: None for t in named if t in still_open and t not in asks}
    return _Deal(
        {t: v for t, v in asks.items() if t not in takes}, takes, claimed, unfounded, reopens
    )


def _deal_amounts(s: Sentence, state: State) -> Iterator[tuple[str, int]]:
    """(ticket, net price) of the amounts that a sentence asks for or takes."""
    candidates = [n for n in s.named if n.role in ("net", "bare")]
    prices = [n for n in candidates if n.figure.kind == "price"]
    for n in candidates:
        item = _item(n, state)
        base = state.quotes.get(item.ticket, item.net_price)
        if n.figure.kind == "price":
            start = n.figure.value in (item.net_price, base) and s.act == "asks"
            if not (start and any(p is not n and _item(p, state) is item for p in prices)):
                yield item.ticket, round(n.figure.value)
        elif s.act == "asks" and n.figure.kind == "gap":
            yield item.ticket, round(base - n.figure.value)
        elif s.act == "asks" and s.lower:
            yield item.ticket, round(base * (1 - n.figure.value / 100))


def _item(n: Named, state: State) -> Item:
    """The ticket that is named; else the open one whose price is nearest."""
    items = state.scenario.items
    if n.ticket is not None:
        return next(i for i in items if i.ticket == n.ticket)
    near = state.open_items or items
    return min(
        near, key=lambda i: abs(state.quotes.get(i.ticket, i.net_price * 0.92) - n.figure.value)
    )


def _grounds(sentences: Sequence[Sentence], state: State) -> tuple[frozenset[str], frozenset[str]]:
    shown: set[str] = set()
    facts: set[str] = set()
    for n in (n for s in sentences for n in s.named if n.figure.kind == "price"):
        for i in state.open_items:
            if n.near and n.ticket != i.ticket:
                continue
            # Prices differ within a scenario, so the figure itself says which ticket is meant.
            if n.role == "elsewhere" and n.figure.value == i.competitor_price:
                shown.add(i.ticket)
            if n.role == "selling" and n.figure.value == i.selling_price:
                facts.add(i.ticket)
    return frozenset(shown), frozenset(facts - shown)


def _false(sentences: Sequence[Sentence], state: State, said: frozenset[int]) -> Iterator[Named]:
    """Figures stated as facts that are none. What the hotelier said himself is not disputed."""
    items = state.scenario.items
    known = {v for i in items for v in (i.selling_price, i.competitor_price, i.net_price)}
    known |= set(state.quotes.values())
    pairs = list(combinations(sorted(known), 2))
    for s in sentences:
        for n in s.named:
            value = n.figure.value
            about = [i for i in items if not n.near or n.ticket == i.ticket]
            if n.figure.kind != "price":
                if s.act != "states":
                    continue
                if n.figure.kind == "gap":
                    true = any(b - a == value for a, b in pairs)
                else:
                    shares = (100 * (b - a) / base for a, b in pairs for base in (a, b))
                    true = any(abs(share - value) <= 1 for share in shares)
            elif value in said:
                continue
            elif n.role in ("elsewhere", "selling"):
                elsewhere = n.role == "elsewhere"
                right = {i.competitor_price if elsewhere else i.selling_price for i in about}
                true = value in right or (not n.near and value in known)
            else:
                near = any(0.75 * i.net_price <= value <= i.net_price for i in about)
                true = s.act != "states" or value in known or near
            if not true:
                yield n


def _leaks(sentences: Sequence[Sentence], state: State) -> Iterator[tuple[str, int]]:
    """Amounts disclosed as what the agent hopes for or may pay."""
    for s in sentences:
        if s.question or not _LIMIT.search(s.text):
            continue
        own = re.search(r"\b(?:i|we|my|our|work order|internal\w*|sheet)\b", s.text, re.IGNORECASE)
        for n in s.named:
            item = _item(n, state)
            labelled = _LABELLED.search(s.text[: n.figure.start])
            if (own or labelled) and n.figure.kind == "price" and n.figure.value <= item.net_price:
                yield item.ticket, round(n.figure.value)
