"""Arguments for a lower price in words, and the guests whom each kind of hotel has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from repo_ray.evaluation.gold.acts import Reply
from repo_ray.records import Message

#: Who acts or what is at stake in an argument, and what happens; both in one sentence make one.
_WHO = re.compile(
    r"\b(?:guests?|travell?ers?|visitors?|customers?|people|shoppers?|bookers?|families|family|couples?|backpackers?|students?|delegates?|attendees|"
    r"organi[sz]ers?|passengers?|flyers?|crews?|holiday-?makers?|they|those|whoever|everyone who|anyone|someone|somebody|lookers|readers|companies|groups?|"
    r"rooms?|nights?|beds?|listing|page|hotel|hostel|homestay|resort|house|studio|suite|king|twin|queen|double|triple|search\w*|results?|price|rate|difference|gap|you|we|it|us)\b",
    re.IGNORECASE,
)
_EFFECT = re.compile(
    r"\b(?:book(?:s|ed|ing|ings)?|compar\w+|conver\w+|exposure|traffic|visib\w+|rank\w*|occupan\w+|(?:stays?|sits?|left|remains?|goes?|go) (?:empty|unsold|unbooked)|empty|unsold|vacant|idle|"
    r"click\w*|orders?|competitive|attract\w*|stand(?:s|ing)? out|choos\w+|chose|prefer\w*|pick(?:s|ed|ing)?|scroll\w*|filter\w*|sort(?:s|ed)?|browse\w*|shop around|"
    r"turn(?:s|ed|ing)? away|walk(?:s|ed)? (?:past|away|on)|leav(?:e|es|ing)|drift\w*|los(?:e|es|ing)|miss(?:es|ing)? out|look(?:s|ing)? (?:elsewhere|dear|expensive|pricey|further)|"
    r"fill(?:s|ed|ing)?|sell(?:s|ing)?|sold|more (?:nights|stays|guests|people|families|of them)|views?|seen|noticed|found|find(?:s)?|show(?:s|n)? up|see(?:s)? (?:it|you|your|the)|"
    r"cheaper|dearer|pricier|expensive|level with|in line|decid\w+|stay(?:s|ing)? (?:longer|several|more)|come back|return|spend(?:s)?|busier|steady|steadier|repeat|demand|tap|market)\b",
    re.IGNORECASE,
)
_SPEAKS = re.compile(r"[a-z]+(?:'[a-z]+)?", re.IGNORECASE)

#: Guests that each kind of hotel has; a word counts for its kind.
_GUESTS: dict[str, re.Pattern[str]] = {
    kind: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for kind, words in {
        "business": r"business (?:travell?ers?|guests?|trips?|nights|people)|corporate|compan(?:y|ies)|compan(?:y|ies)' |work trips?|office|commut\w+|meetings?|"
        r"travel(?:l?ing)? for work|on business|consultants?|sales ?people|expense\w*|weekday guests",
        "resort": r"beach\w*|holiday-?makers?|holiday guests|vacation\w*|honeymoon\w*|pools?|spa|seaside|leisure|families|family (?:trip|holiday)s?|sun|getaways?|all-inclusive",
        "homestay": r"home-?cooked|home (?:away|from home)|home-like|neighbou?rhood|courtyard|homely|cosy|cozy|families|local (?:life|feel)|like (?:living )?with|small house|personal (?:touch|place)|feel at home",
        "airport": r"airport|transit\w*|layovers?|stopovers?|early flights?|late flights?|terminal|red-?eye|flights?|flyers?|passengers?|crews?|late arrivals?|connect(?:ion|ing)\w*",
        "conference": r"conferences?|congress\w*|conventions?|delegates?|attendees|organi[sz]ers?|trade fairs?|events?|fairs?|groups?|seminars?|speakers|exhibitors?|participants?",
        "boutique": r"design|style|stylish|character|charm\w*|couples?|special (?:place|stay|occasion)|atmosphere|weekend (?:break|trip)s?|taste|unique|one of a kind|falls? for",
        "hostel": r"backpackers?|students?|young (?:travell?ers?|people|guests)|youth|budget|dorms?|gap year|every yuan|penny|shoestring|solo travell?ers?",
    }.items()
}
#: Words that only one kind of hotel can claim, and the kinds that they do not misfit.
_OWNED: dict[str, tuple[re.Pattern[str], frozenset[str]]] = {
    kind: (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), frozenset(fits.split()))
    for kind, (words, fits) in {
        "business": (
            r"business travell?ers?|corporate|commut\w+|business trips?|work trips?|office (?:guests|workers)",
            "conference airport boutique",
        ),
        "resort": (
            r"beach\w*|vacation\w*|honeymoon\w*|spa|seaside|holiday-?makers?",
            "boutique homestay",
        ),
        "homestay": (r"home-?cooked|home away|courtyard|homely", "boutique hostel resort"),
        "airport": (r"transit\w*|layovers?|stopovers?|early flights?|late flights?|red-?eye", ""),
        "conference": (r"delegates?|congress\w*|exhibitors?|event organi[sz]ers?", "business"),
        "hostel": (r"backpackers?|dorms?|dormitor\w+", "homestay"),
    }.items()
}


def argues(reply: Reply) -> bool:
    """A sentence says who does what, or what becomes of rooms; a lone connective is no argument."""
    return any(argument_in(s.text) for s in reply.sentences)


def argument_in(sentence: str) -> bool:
    """A clause of at least five words with somebody or something and an effect on bookings."""
    return (
        len(_SPEAKS.findall(sentence)) >= 5
        and _WHO.search(sentence) is not None
        and _EFFECT.search(sentence) is not None
    )


def kind_of(hotel_type: str) -> str | None:
    """The known kind of hotel in a free text such as `beach resort`; None when there is none."""
    return next((k for k in _GUESTS if k in hotel_type), None)


def speaks_of_guests(text: str, hotel_type: str) -> bool:
    """The text speaks of the guests that this kind of hotel has."""
    kind = kind_of(hotel_type)
    return kind is not None and _GUESTS[kind].search(text) is not None


def wrong_guests(text: str, hotel_type: str, messages: Sequence[Message]) -> str | None:
    """Guests of another kind of hotel that nobody has mentioned; None when there are none."""
    kind = kind_of(hotel_type)
    if kind is None or _GUESTS[kind].search(text):
        return None
    spoken = " ".join(m.content for m in messages).lower()
    for other, (pattern, fits) in _OWNED.items():
        match = pattern.search(text)
        if other != kind and kind not in fits and match and match.group().lower() not in spoken:
            return match.group()
    return None
