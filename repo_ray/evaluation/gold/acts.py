"""What a reply does: which amounts it names, as which price, of which ticket, and to what end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from repo_ray.evaluation.gold.amounts import Amount, find_amounts
from repo_ray.evaluation.gold.scenario import Item, Scenario

Role = Literal["selling", "competitor", "net", "unsaid"]
Act = Literal["states", "asks", "accepts", "claims_consent", "declines", "confirms"]

_SENTENCE = re.compile(
    r"[^.!?。！？\n]*(?:[.!?。！？](?=\d)[^.!?。！？\n]*)*(?:[.!?。！？…]+|\n|$)"
)
_BREAK = re.compile(
    r"[,;:—–]|\b(?:while|but|whereas|against|versus|vs|and|so|compared|than|though|when|with)\b",
    re.IGNORECASE,
)

_ROLE_CUES: dict[Role, re.Pattern[str]] = {
    "competitor": re.compile(
        r"\b(?:competit\w+|elsewhere|rivals?|(?:other|another|different|rival) (?:\w+ )?"
        r"(?:platforms?|channels?|sites?|apps?|websites?|otas?|agenc\w+|pages?|places?)|others|"
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

_ASK = re.compile(
    r"\b(?:could|can|would|will|might|may) (?:you|we|it|that|this|your|the|\d+|[a-z]+ \w+ (?:be|go|come))\b"
    r"|\b(?:may|might|shall|could|can|should) (?:i|we)\b"
    r"|\b(?:please|hop(?:e|ing)|request\w*|propos\w+|suggest\w*|aim(?:ing)?|wonder\w*|how about|what about|"
    r"what if|any (?:chance|room|way|possib\w+)|possible|consider|is it possible|would like|i'd like|"
    r"we'd like|looking (?:for|at)|ask(?:ing)?|need(?:s)? (?:the|your|it|you|a)|if you|if we|if the|if it|if your|let's try|"
    r"willing to|open to|would (?:really |truly |greatly )?(?:work|help|be (?:ideal|great|perfect|helpful))|meet (?:me|us)|"
    r"bring\w*|lower\w*|reduc\w+|drop(?:ping)?|adjust\w*|trim\w*|come down|go down|move (?:down|closer)|match)\b",
    re.IGNORECASE,
)
_LOWER = re.compile(
    r"\b(?:lower\w*|reduc\w+|drop(?:ping)?|come down|go down|cut|decreas\w+|adjust\w*|trim\w*|shave|"
    r"(?:a (?:bit|little)|some|any) (?:more )?(?:lower|less|better|room|flexib\w+|down)|better (?:net )?(?:price|rate|offer|deal)|"
    r"bring\w* (?:\w+ ){0,5}down|further|closer|down to|room (?:to|for|on)|flexib\w+|discount|meet (?:me|us))\b",
    re.IGNORECASE,
)
_PRICE_TALK = re.compile(
    r"\b(?:price|rate|net|number|figure|offer|quote|yuan|it|that|down|lower|discount)\b",
    re.IGNORECASE,
)
_ACCEPT = re.compile(
    r"\b(?:i|we)(?:'ll| will| can| would| shall|'d|'re| are| am|'m)?(?: be)?"
    r"(?: \w+ly| so| now| just| \w+ to)*"
    r" (?:accept(?!ed a)|take (?:it|that|this|the|your|you|\d+|[¥￥]\d+|cny)|go (?:with|ahead with)|agree\b|confirm(?:ed)?\b"
    r"|lock\w*|settle\w*|proceed|approve|fix|finali[sz]e|set|note|record|register)\b"
    r"|\b(?:deal|agreed|accepted|confirmed|settled|locked in|done|it's a deal)\b(?! with)"
    r"|\bworks? (?:very |perfectly |really )?(?:well |fine |great |perfectly )?(?:for|on) (?:us|me|our)\b|\bworks (?:well|great|perfectly)\b"
    r"|\b(?:is|'s|sounds|looks|that's) (?:just )?(?:fine|great|perfect|good|acceptable|settled|exactly right|agreed|confirmed|done)\b"
    r"|\blet's (?:go with|lock|settle|confirm|fix|proceed|do|call it|make it|finali[sz]e|set|close|keep it)\b"
    r"|\b(?:i'll|i will|we'll|we will|let me|i am|i'm|we are|we're) (?:now |right away |immediately |go ahead and )?"
    r"(?:record|note|enter|update|put|lock|book|set|file|submit|load|register|updating|recording|setting|entering|locking|confirming)"
    r"\b(?! (?:with|whether|if))"
    r"|\b(?:cny|yuan|¥|￥)? ?\d{2,5} (?:yuan |net )?it is\b",
    re.IGNORECASE,
)
_WEAK_ACCEPT = re.compile(r"\b(?:fine|great|good|perfect|done|deal|right)\b", re.IGNORECASE)
_CONSENT = re.compile(
    r"\b(?:thank\w*|thanks|appreciate\w*|glad|happy|pleased|grateful|great|good|wonderful|delighted)\b[^.!?]{0,30}?\b"
    r"(?:agree(?:ing|d|ment)?|accept(?:ing|ed|ance)|confirm(?:ing|ed|ation)|approv(?:ing|ed|al)|consent\w*|on board|"
    r"said yes|say yes|we (?:have|reached) (?:a deal|an agreement))\b"
    r"|\b(?:you(?:'ve| have)?|as you(?:'ve| have)?|since you(?:'ve| have)?|as we(?:'ve| have)?|we(?:'ve| have)) (?:\w+ )?"
    r"(?:agreed|accepted|confirmed|approved|settled|consented|reached an agreement)\b"
    r"|\b(?:noted|take|taking|treat|taken|count|assume|read) (?:\w+ ){0,3}(?:silence|agreement|consent|as a yes|as yes|as agreed|"
    r"as accepted|as confirmed|no objection)\b|\bsince (?:you (?:have|had) no objection|there (?:is|are) no objection\w*)\b"
    r"|\bas agreed\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:not|n't|cannot|can't|unable|never|no longer|hard|difficult|without|unless|before|beyond|too (?:high|much)|"
    r"above what|yet|still (?:above|high\w*|over|a bit)|(?<!at )once|until|when)\b|n['’]t\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\b(?:if|(?<!at )once|should you|provided|as long as|in case)\b", re.IGNORECASE
)
_DEFERS = re.compile(
    r"\b(?:confirm|check|discuss|talk|review) (?:it |this |that )?(?:with|whether|if|internally)\b|"
    r"\b(?:take your time|no rush|no hurry|no problem|no pressure)\b",
    re.IGNORECASE,
)
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
_JOINED = re.compile(
    r"\s*(?:net |yuan |a night |per night )*(?:(?:for|on) [^.;:?!]{1,40})?(?:,|,? and)\s*(?:cny|rmb|[¥￥])?\s?",
    re.IGNORECASE,
)
_FOR = re.compile(
    r"\s*(?:net|yuan|rmb|a night|per night|\s)*\s*(?:for|on)\s+(?:the |your )?", re.IGNORECASE
)
_COLLECTIVE = re.compile(
    r"\b(?:both|each|every|all (?:of )?(?:the|your|three|two|four|room|ticket|these|types|rooms)|everything|the (?:two|three|four) (?:rooms?|types?|tickets?|prices?|of them)|"
    r"respectively|either)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Mention:
    """One amount in the reply. `ticket` is None when the words leave it open."""

    value: int
    role: Role
    act: Act
    ticket: str | None
    difference: bool
    words: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence with what it does. `lower` asks for a lower price, with or without a number."""

    text: str
    act: Act
    lower: bool
    tickets: tuple[str, ...]
    mentions: tuple[Mention, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as read. `named` are the tickets that it covers by name, number word or `both`."""

    text: str
    sentences: tuple[Sentence, ...]
    named: frozenset[str]

    @property
    def mentions(self) -> tuple[Mention, ...]:
        return tuple(m for s in self.sentences for m in s.mentions)

    def does(self, *acts: Act) -> bool:
        return any(s.act in acts for s in self.sentences)

    @property
    def asks_lower(self) -> bool:
        """A lower net price is asked for, in words or as a number."""
        return any(s.lower for s in self.sentences) or any(
            m.act == "asks" and not m.difference for m in self.mentions
        )


def split_sentences(text: str) -> list[str]:
    """Sentences with their end marks; decimals and thousands stay whole."""
    return [s.strip() for s in _SENTENCE.findall(text) if s.strip()]


def read_reply(text: str, scenario: Scenario) -> Reply:
    """Reads acts, amounts, roles and tickets; a ticket named once holds until another is."""
    sentences: list[Sentence] = []
    covered: set[str] = set()
    current: str | None = scenario.pending[0].ticket if len(scenario.pending) == 1 else None
    if len(scenario.items) == 1:
        current = scenario.items[0].ticket
    for raw in split_sentences(text):
        spots = _ticket_spots(raw, scenario)
        covered.update(t for _, t in spots)
        if _COLLECTIVE.search(raw):
            covered.update(item.ticket for item in scenario.pending)
        act = _sentence_act(raw)
        amounts = find_amounts(raw)
        mentions = _coordinate(
            raw,
            amounts,
            [_mention(raw, amount, act, spots, current, scenario) for amount in amounts],
        )
        if spots:
            tickets = {t for _, t in spots}
            current = spots[-1][1] if len(tickets) == 1 else None
        lower = bool(_LOWER.search(raw)) and act == "asks" and bool(_PRICE_TALK.search(raw))
        # "Lower it to 380." carries an ask without any courtesy; a claim of fact does not.
        sentences.append(Sentence(raw, act, lower, tuple(t for _, t in spots), mentions))
    return Reply(text, tuple(sentences), frozenset(covered))


def _coordinate(
    sentence: str, amounts: Sequence[Amount], mentions: Sequence[Mention]
) -> tuple[Mention, ...]:
    """`380 for the king and 276 for the twin`: the second amount is what the first one is."""
    result: list[Mention] = []
    for i, mention in enumerate(mentions):
        if i and mention.role == "unsaid" and not mention.difference:
            between = sentence[amounts[i - 1].end : amounts[i].start]
            if _JOINED.fullmatch(between) and not result[-1].difference:
                mention = replace(mention, role=result[-1].role, act=result[-1].act)
        result.append(mention)
    return tuple(result)


def _sentence_act(sentence: str) -> Act:
    question = sentence.rstrip().endswith(("?", "？"))
    if _CONSENT.search(sentence) and not question and not _NEGATED.search(sentence):
        return "claims_consent"
    accept = _ACCEPT.search(sentence)
    if accept and not _DEFERS.search(sentence):
        before = sentence[: accept.start()]
        negated = _NEGATED.search(before[-40:]) or _NEGATED.search(
            sentence[accept.start() : accept.end() + 12]
        )
        conditional = _CONDITION.search(before) or _CONDITION.search(sentence[accept.end() :])
        has_price = bool(find_amounts(sentence)) or not _WEAK_ACCEPT.fullmatch(
            accept.group().split()[-1]
        )
        if negated:
            return "declines" if not _ASK.search(sentence) else "asks"
        if question:
            return "confirms" if not _LOWER.search(sentence) else "asks"
        if not conditional and has_price:
            return "accepts"
        if conditional:
            return "asks"
    if question and re.search(
        r"\bconfirm\w*|\bcorrect\b|\bis that right|, right\b", sentence, re.I
    ):
        return "confirms"
    asks = _ASK.search(sentence) or (question and find_amounts(sentence))
    return "asks" if asks else "states"


def _ticket_spots(sentence: str, scenario: Scenario) -> list[tuple[int, str]]:
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


def _mention(
    sentence: str,
    amount: Amount,
    act: Act,
    spots: Sequence[tuple[int, str]],
    current: str | None,
    scenario: Scenario,
) -> Mention:
    ticket = _nearest_ticket(sentence, amount, spots, current)
    role = _role(sentence, amount)
    before = sentence[: amount.start]
    own_act = act
    if amount.difference:
        own_act = "states"
    elif act in ("asks", "confirms"):
        candidates = [scenario.item(ticket)] if ticket else list(scenario.items)
        stated = (
            _FROM.search(before) is not None
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


def _role(sentence: str, amount: Amount) -> Role:
    """The price that the nearest cue names; a clause border or another amount between counts far."""
    best: tuple[float, Role] = (60.0, "unsaid")
    others = [a for a in find_amounts(sentence) if a != amount]
    for role, pattern in _ROLE_CUES.items():
        for cue in pattern.finditer(sentence):
            if cue.end() <= amount.start:
                low, high = cue.end(), amount.start
            else:
                low, high = amount.end, cue.start()
            distance = float(max(high - low, 0))
            distance += 45 * sum(low <= a.start < high for a in others)
            distance += 40 * len(_BREAK.findall(sentence[low:high])) if high > low else 0
            best = min(best, (distance, role))
    return best[1]
