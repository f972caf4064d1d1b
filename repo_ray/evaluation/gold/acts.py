"""What a reply does, sentence by sentence: states, asks, accepts, claims, declines, confirms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from repo_ray.evaluation.gold.amounts import Amount, find_amounts
from repo_ray.evaluation.gold.mentions import (
    Act,
    Mention,
    coordinate,
    mention_of,
    role_of,
    ticket_spots,
)
from repo_ray.evaluation.gold.scenario import Scenario

_SENTENCE = re.compile(
    r"[^.!?。！？\n]*(?:[.!?。！？](?=\d)[^.!?。！？\n]*)*(?:[.!?。！？…]+|\n|$)"
)
_ASK = re.compile(
    r"\b(?:could|can|would|will|might|may) (?:you|we|it|that|this|your|the|\d+|[a-z]+ \w+ (?:be|go|come))\b"
    r"|\b(?:may|might|shall|could|can|should) (?:i|we)\b"
    r"|\b(?:please|hop(?:e|ing)|request\w*|propos\w+|suggest\w*|aim(?:ing)?|wonder\w*|how about|what about|"
    r"what if|any (?:chance|room|way|possib\w+)|possible|consider|is it possible|would like|i'd like|"
    r"we'd like|looking (?:for|at)|ask(?:ing)?|need(?:s)? (?:the|your|it|you|a)|if you|if we|if the|if it|if your|let's try|"
    r"willing to|open to|would (?:really |truly |greatly )?(?:work|help|be (?:ideal|great|perfect|helpful))|meet (?:me|us))\b",
    re.IGNORECASE,
)
#: Asking without courtesy: `Bring it down to 380.` A lower price as a subject asks for nothing.
_ASK_VERB = re.compile(
    r"\b(?:bring\w*|lower\w*|reduc\w+|drop(?:ping)?|adjust\w*|trim\w*|come down|go down|move (?:down|closer)|match)\b",
    re.IGNORECASE,
)
_LOWER = re.compile(
    r"\b(?:lower\w*|reduc\w+|drop(?:ping)?(?! (?:you|me|us|by|in)\b)|come down|go down|cut|decreas\w+|adjust\w*|trim\w*|shave|"
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
    r"(?: \w+ly| so| now| just| therefore| hereby| then| \w+ to)*"
    r" (?:accept(?!ed a)|take (?:it|that|this|the|your|you|\d+|[¥￥]\d+|cny)|go (?:with|ahead with)|agree\b|confirm(?:ed)?\b"
    r"|lock\w*|settle\w*|proceed|approve|fix|finali[sz]e|set|note|record|register)\b"
    r"|\b(?:deal|agreed|accepted|confirmed|settled|locked in|done|it's a deal)\b(?! with (?!thanks|pleasure|gratitude|great|many))"
    r"|\b\d+ (?:net |yuan )*(?:works|will do|does it|suits (?:us|me)|is (?:fine|good|okay|ok|great|perfect))\b"
    r"|\bworks? (?:very |perfectly |really )?(?:well |fine |great |perfectly )?(?:for|on) (?:us|me|our)\b|\bworks (?:well|great|perfectly)\b"
    r"|\b(?:is|'s|sounds|looks|that's) (?:just )?(?:fine|great|perfect|good|acceptable|settled|exactly right|agreed|confirmed|done)\b"
    r"|\blet's (?:go with|lock|settle|confirm|fix|proceed|do|call it|make it|finali[sz]e|set|close|keep it)\b"
    r"|\b(?:i'll|i will|we'll|we will|let me|i am|i'm|we are|we're) (?:now |right away |immediately |go ahead and )?"
    r"(?:record|note|enter|update|put|lock|book|set|file|submit|load|register|updating|recording|setting|entering|locking|confirming)"
    r"\b(?! (?:with|whether|if))"
    r"|\b(?:cny|yuan|¥|￥)? ?\d{2,5} (?:yuan |net )?it is\b",
    re.IGNORECASE,
)
#: A price that is being changed, by whoever does it: what is done needs no consent any more.
_CHANGED = re.compile(
    r"\b(?:(?:i|we|they|system|colleagues?|team|manager|desk|assistant|price|rate|room|it|net|twin|king|queen|double|triple|studio|suite|that|this|\d+)"
    r"(?:'ve|'s|'m|'re|'ll)?(?: (?:am|are|is|was|will|has|have|had|be|been|being|now|just|already|right|away|then|hereby|therefore|to|get|gets))*"
    r" (?:put(?:ting)?|chang(?:es|ed|ing)|set(?:ting)?|enter(?:ed|ing)?|updat(?:e|ed|ing)|switch(?:ed|ing)?|load(?:ed|ing)?|fix(?:ed|ing)|adjust(?:ed|ing)|mov(?:ed|ing)|lower(?:ed|ing)|reduc(?:ed|ing)|record\w*|register\w*|"
    r"sav(?:ed|ing)|appli(?:ed|es)|activ\w+|book(?:ed|ing)|writ(?:ing|ten)|not(?:ed|ing)|filed?|signed|stands?|takes? effect|goes live|went live|go live|effective|in (?:place|the system|force))"
    r"|(?:as|like) (?:we |you )?(?:have |had |'ve )?(?:discussed|arranged|promised|settled|wished|wanted|requested|asked|instructed|said|told|suggested|proposed|offered)"
    r"|(?:agreed|confirmed|approved|signed off|accepted|cleared) (?:with|by) (?:your|the|reception|[a-z]+)"
    r"|per our|our (?:agreement|arrangement|deal)|(?:on|to) record|goes live|with immediate effect|in(?:to)? the (?:system|books)|in place)\b",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"\b(?:(?:could|can|would|will|might|may) (?:you|we|i|it|that|this|your|there)|please|hop(?:e|ing)|propos(?:e|ing|al)|suggest(?!ed)\w*|"
    r"i'd|we'd|let's|let us|how about|what about|what if|want(?:ed)? to (?:ask|see)|would|should|could|might)\b",
    re.IGNORECASE,
)
#: A price that is wished for: `462 net would bring it level`, `I had 380 in mind`.
_PROPOSED = re.compile(
    r"\b(?:would|could|might|i'd|we'd|think(?:ing)? (?:of|about)|in mind|ideal\w*|hop(?:e|ing)|wish\w*|aim\w*|proposal|suggestion|idea|"
    r"try(?:ing)?|looking for|ask(?:ing)? (?:for|about)|after|want|need|like to|what i)\b|'d ",
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
    r"\b(?:if|(?<!at )once(?! (?:it|that|this|everything|all|more|again))|should you|provided|as long as|in case)\b",
    re.IGNORECASE,
)
_DEFERS = re.compile(
    r"\b(?:confirm|check|discuss|talk|review) (?:it |this |that )?(?:with|whether|if|internally)\b|"
    r"\b(?:take your time|no rush|no hurry|no problem|no pressure)\b",
    re.IGNORECASE,
)
_OPENS_ASK = re.compile(
    r"(?:so |and |but |then |now |perhaps |maybe )*(?:(?:could|would|can|will|may|might|shall|should|couldn't|wouldn't) "
    r"(?:you|we|i|it|that|this|there|your|the|a|an|going|setting|\d+)|(?:how|what) about|what if|is (?:there|it|that)|are you|do you|any (?:chance|way|room))",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    rf"\s*[,;–—]\s+(?={_OPENS_ASK.pattern}\b)|,?\s+(?=(?:since|because|given|considering|now that|seeing that|seeing as)\b)",
    re.IGNORECASE,
)
#: A bare amount with a cheer is a yes: `Perfect, 378 net for the king`.
_CHEER = re.compile(
    r"^\W*(?:(?:thank\w*|thanks|thank you|ok(?:ay)?|alright|all right|oh|and|many thanks|so|yes)[, !.]+)*(?:perfect|great|fantastic|wonderful|excellent|super|brilliant|lovely|splendid|superb|deal|done|good|then|so be it)\b"
    r"|\b(?:it shall be|it will be|it is|then it's|so it's|we have|we've got|i'm on it|on it)\b",
    re.IGNORECASE,
)
#: With the hotelier's own figure this takes it: `Let's say 275 then.`
_SETTLES = re.compile(
    r"^\W*(?:ok(?:ay)?|alright|fine|well|then|so)?[, ]*let(?:'s| us) (?:say|do|take|make it)\b(?![^.]*\?)",
    re.IGNORECASE,
)
_RESERVED = re.compile(
    r"\b(?:but|still|however|though|although|start|high\w*|above|closer|step|stretch|far|too|only|from|than|not|can't|cannot|elsewhere|see|offer\w*|quote\w*|said|mention\w*|moving|progress)\b|n't\b",
    re.IGNORECASE,
)
_COLLECTIVE = re.compile(
    r"\b(?:both|each|every|all (?:of )?(?:the|your|three|two|four|room|ticket|these|types|rooms)|everything|the (?:two|three|four) (?:rooms?|types?|tickets?|prices?|of them)|"
    r"respectively|either)\b",
    re.IGNORECASE,
)


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


def split_clauses(sentence: str) -> list[str]:
    """A sentence cut before a polite question and before a trailing reason.

    `The place next door has 360, could you do 380, since guests compare?` states, asks, states.
    """
    parts = _CLAUSE.split(sentence)
    if len(parts) == 1 or not sentence.rstrip().endswith(("?", "？")):
        return [sentence]
    asking = next((i for i, p in enumerate(parts) if _OPENS_ASK.match(p)), len(parts) - 1)
    return [
        part.rstrip(" ,;?？") + ("?" if i == asking else ".")
        for i, part in enumerate(parts)
        if part
    ]


def read_reply(text: str, scenario: Scenario) -> Reply:
    """Reads acts, amounts, roles and tickets; a ticket named once holds until another is."""
    sentences: list[Sentence] = []
    covered: set[str] = set()
    current: str | None = scenario.pending[0].ticket if len(scenario.pending) == 1 else None
    if len(scenario.items) == 1:
        current = scenario.items[0].ticket
    texts = [c for s in split_sentences(text) for c in split_clauses(s)]
    for number, raw in enumerate(texts):
        spots = ticket_spots(raw, scenario)
        covered.update(t for _, t in spots)
        if _COLLECTIVE.search(raw):
            covered.update(item.ticket for item in scenario.pending)
        act = _sentence_act(raw)
        amounts = find_amounts(raw)
        quotes = {i.quote for i in scenario.items}
        if _SETTLES.search(raw) and amounts and all(a.value in quotes for a in amounts):
            act = "accepts"
        if act == "states" and _proposes(raw, texts[number + 1 :], amounts, scenario):
            act = "asks"
        mentions = coordinate(
            raw,
            amounts,
            [mention_of(raw, amount, act, spots, current, scenario) for amount in amounts],
            scenario.items,
        )
        if spots:
            tickets = {t for _, t in spots}
            current = spots[-1][1] if len(tickets) == 1 else None
        lower = bool(_LOWER.search(raw)) and act == "asks" and bool(_PRICE_TALK.search(raw))
        # "Lower it to 380." carries an ask without any courtesy; a claim of fact does not.
        sentences.append(Sentence(raw, act, lower, tuple(t for _, t in spots), mentions))
    return Reply(text, tuple(sentences), frozenset(covered))


def _proposes(
    sentence: str, following: Sequence[str], amounts: Sequence[Amount], scenario: Scenario
) -> bool:
    """A new amount put forward: in the conditional, or with a question about it right after."""
    known = {v for i in scenario.items for v in i.facts}
    new = [a for a in amounts if not a.difference and a.value not in known]
    if not any(role_of(sentence, a, scenario.items) in ("net", "unsaid") for a in new):
        return False
    asked = [s for s in following[:2] if s.rstrip().endswith(("?", "？"))]
    return bool(_PROPOSED.search(sentence)) or any(not find_amounts(s) for s in asked)


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
    if not question and find_amounts(sentence) and _CHANGED.search(sentence):
        undone = (_NEGATED, _CONDITION, _REQUEST, _DEFERS)
        if not any(p.search(sentence) for p in undone):
            return "accepts"
    if (
        not question
        and find_amounts(sentence)
        and _CHEER.search(sentence)
        and not any(p.search(sentence) for p in (_RESERVED, _CONDITION, _REQUEST))
    ):
        return "accepts"
    if question and re.search(
        r"\bconfirm\w*|\bcorrect\b|\bis that right|, right\b", sentence, re.I
    ):
        return "confirms"
    bare = _ASK_VERB.search(sentence)
    asks = (
        _ASK.search(sentence)
        or (question and find_amounts(sentence))
        or (bare and (question or bare.start() < 5 or find_amounts(sentence)))
    )
    return "asks" if asks else "states"
