"""Reads the hotelier's latest message: the stance, the quoted amounts, and the objection's topics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from repo_ray.evaluation.gold.amounts import find_amounts
from repo_ray.records import Message

Stance = Literal["opening", "silent", "vague", "agrees", "counters", "refuses", "asks", "other"]

_SILENCE = re.compile(
    r"^[\W_]*(?:\(?\[?\s*(?:silence|silent|no (?:answer|reply|response)|pause|seen|read|long pause)"
    r"[^)\]]*[)\]]?)?[\W_]*$",
    re.IGNORECASE,
)
_BACKCHANNEL = re.compile(
    r"^(?:oh|ok(?:ay)?|hmm+|mm+|mhm|uh[- ]?huh|uh|um|i see|right|noted|yeah|well|hm|ah|eh|and|so|"
    r"go on|i hear you|[\s,.!…])+$",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:no(?! (?:problem|rush|worries|issue))|nope|cannot|can't|can ?not|won't|will not|wouldn't|couldn't|"
    r"impossible|not possible|no way|too low|too much|not happening|forget it|don't think so|"
    r"unable|refuse|not going|never|won’t|can’t|not (?:moving|lower|dropping|cutting|interested)|"
    r"lose money|losing money|at a loss|already (?:low|cheap|the lowest|rock bottom)|why should|"
    r"not worth|out of the question|hardly)\b",
    re.IGNORECASE,
)
_AGREEMENT = re.compile(
    r"\b(?:deal|agreed|i agree|we agree|fine by (?:me|us)|okay then|ok then|alright|all right|go ahead|"
    r"works for (?:me|us)|you (?:have|'ve got|got) (?:it|a deal)|(?:let's|lets) do (?:it|that)|"
    r"i can (?:do|live with) that|we can do that|set it|update it|fine[,.!]|sure|that's ok(?:ay)?|yes|"
    r"do it|accepted?|sounds good|settled|done)\b",
    re.IGNORECASE,
)
_VAGUE = re.compile(
    r"\b(?:let me (?:think|check|see|look|ask)|think about it|not sure|maybe|perhaps|we'll see|we will see|"
    r"later|busy|call (?:me )?back|hard to say|depends|get back to you|talk (?:later|tomorrow)|"
    r"(?:ask|check with|talk to|speak to) (?:my|the|our) (?:boss|owner|manager|partner|wife|husband)|"
    r"another time|i don't know|dunno|hold on|one moment|not now)\b",
    re.IGNORECASE,
)

_WANTS_REASONS = re.compile(
    r"\b(?:why|reason|what do (?:i|we) get|what's in it|in return|what for|how does (?:that|it|this) help|the point|makes? no sense|convince|benefit|any good)\b",
    re.IGNORECASE,
)
#: What an objection can be about: a word of a topic in both messages counts as taken up.
TOPICS: dict[str, re.Pattern[str]] = {
    "costs": re.compile(
        r"\b(?:costs?|costly|wages?|staff(?:ing)?|salar\w+|payroll|rent|lease|mortgage|loans?|tax(?:es)?|insurance|gas|fuel|water|power|electric\w*|"
        r"heating|air.?con\w*|laundry|linen|cleaning|cleaners?|cooks?|breakfasts?|supplie\w+|repairs?|roof|plumbing|upkeep|maintenance|utilit\w+|bills?|"
        r"expens\w+|margins?|profit\w*|renovat\w+|refurbish\w*|bathrooms|invest\w*|inflation|overhead|break.?even|loss(?:es)?|los(?:e|ing) money|earn (?:nothing|little)|nothing left|pay (?:back|off))\b",
        re.IGNORECASE,
    ),
    "demand": re.compile(
        r"\b(?:peak|season\w*|holidays?|weekends?|fully booked|full|demand|festival|fair|expo|"
        r"sold out|sell out|occup\w+|high season|events?|concerts?|good week)\b",
        re.IGNORECASE,
    ),
    "slow": re.compile(
        r"\b(?:slow|quiet|empty|half|terrible|bad (?:month|week|season|year)|weak|off-?season|low season|"
        r"hardly any|few guests|hard (?:\w+ )?(?:season|month|time)|no guests|struggl\w+|season is)\b",
        re.IGNORECASE,
    ),
    "anger": re.compile(
        r"\b(?:ang\w+|fed up|tired of|annoy\w+|upset\w*|stupid|rude|leave me|get lost|hang\w* up|"
        r"don't ask|stop (?:calling|asking)|push us|trouble|bother\w*|frustrat\w+|harass\w*)\b",
        re.IGNORECASE,
    ),
    "doubt": re.compile(
        r"\b(?:why|don't (?:see|believe|trust)|believe|doubt\w*|proof|prove|sure|really|where did you|"
        r"guarantee|assur\w+|puzzl\w+|surpris\w+|fair question|careful|point)\b",
        re.IGNORECASE,
    ),
    "already_low": re.compile(
        r"\b(?:already|lowest|cheapest|bottom|low enough|last time|just (?:cut|lowered|reduced|dropped)|"
        r"floor|recently)\b",
        re.IGNORECASE,
    ),
    "authority": re.compile(
        r"\b(?:boss|owner|head office|headquarters|manager|group|approv\w+|permission|decide|"
        r"decision|authori\w+|in charge|partner)\b",
        re.IGNORECASE,
    ),
    "platform": re.compile(
        r"\b(?:commission\w*|fees?|deduct\w+|percentages?|(?:your|our|its) (?:cut|share)|you take|other platforms?|"
        r"competitors?|other sites?|direct\w*|your app|your side)\b",
        re.IGNORECASE,
    ),
    "quality": re.compile(
        r"\b(?:quality|service|breakfast|new(?:ly)?|view|location|rating|reviews?|guests? love|clean|"
        r"pool|rooms? (?:is|are) (?:better|bigger|newer|nicer)|brand|image|reputation)\b",
        re.IGNORECASE,
    ),
    "results": re.compile(
        r"\b(?:few bookings|no bookings|orders|traffic|exposure|volume|what do i get|"
        r"what's in it|in return|benefit|last promotion|nothing changed|promis\w+|worth it)\b",
        re.IGNORECASE,
    ),
    "time": re.compile(
        r"\b(?:busy|later|time|minute|moment|call back|in a meeting|front desk|check-?ins?|queue|"
        r"think|rush|tomorrow)\b",
        re.IGNORECASE,
    ),
}


@dataclass(frozen=True, slots=True)
class HotelierTurn:
    """What the hotelier just said."""

    text: str
    stance: Stance
    amounts: frozenset[int]
    topics: frozenset[str]

    @property
    def wants_reasons(self) -> bool:
        """The hotelier asks why, or what it brings."""
        return _WANTS_REASONS.search(self.text) is not None

    @property
    def unsettled(self) -> bool:
        """Nothing here can be taken as consent."""
        return self.stance in ("opening", "silent", "vague", "refuses", "asks", "other")


def read_hotelier(messages: Sequence[Message], consents: bool | None = None) -> HotelierTurn:
    """The stance of the last user message; `opening` when the hotelier has said nothing yet.

    `consents` is the hidden truth, where the data has it; it overrules what the words seem to say.
    """
    last = next((m for m in reversed(messages) if m.role != "system"), None)
    if last is None or last.role != "user":
        return HotelierTurn("", "opening", frozenset(), frozenset())
    text = last.content.strip()
    amounts = frozenset(a.value for a in find_amounts(text) if not a.difference)
    stance = _stance(text, bool(amounts))
    if consents is False and stance == "agrees":
        stance = "other"
    elif consents is True and stance != "counters":
        stance = "agrees"
    return HotelierTurn(text, stance, amounts, topics_of(text))


def topics_of(text: str) -> frozenset[str]:
    """The objection topics that the text touches."""
    return frozenset(name for name, pattern in TOPICS.items() if pattern.search(text))


def _stance(text: str, has_amount: bool) -> Stance:
    if _SILENCE.match(text):
        return "silent"
    if _BACKCHANNEL.match(text):
        return "vague"
    refuses, agrees = bool(_REFUSAL.search(text)), bool(_AGREEMENT.search(text))
    if has_amount:
        return "agrees" if agrees and not refuses else "counters"
    if _VAGUE.search(text):
        return "vague"
    if refuses:
        return "refuses"
    if agrees and not re.search(r"\b(?:but|if|unless|speaking|here)\b|\?", text, re.IGNORECASE):
        return "agrees"
    return "asks" if "?" in text else "other"
