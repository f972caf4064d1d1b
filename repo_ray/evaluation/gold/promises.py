"""Promises that a negotiator cannot keep: certain results, favours of the platform, money."""

# ruff: noqa: SIM905 (word lists read better as text)

from __future__ import annotations

import re

from repo_ray.evaluation.gold.acts import Reply

_SUCCESS = (
    r"(?:sell(?:s|ing)? out|sold[- ]out|fully booked|booked (?:solid|out|up)|(?:be|stay|is|are|keep|run)s? (?:\w+ )?full\b|"
    r"packed|(?:will|'ll|to|can|would) (?:double|triple)|doubles|doubling|tripling|twice as (?:many|much)|skyrocket\w*|explod\w*|flood\w*|pour in|"
    r"(?:best|record|strongest) (?:\w+ )?(?:month|season|year|week|sales)|never (?:\w+ )?(?:empty|worry|be empty)|no (?:more )?empty (?:rooms?|beds?|nights?)|"
    r"sell(?:s)? itself|fill(?:s)? (?:up|itself|every|all))"
)
_SURE = re.compile(
    r"\b(?:guarantee\w*|my word|(?:i|we)(?:'ll| can| will| do| hereby| personally)? (?:promise|swear|vow|pledge|assure)|assure you|rest assured|"
    r"trust me|believe me|mark my words|(?:count|rely) on (?:it|that|me|this)|(?:i'll|we'll|i will|we will) see (?:to it )?that|depend on it|bet (?:on it|you|my)|(?:is|are) assured|no (?:room for )?doubt|without (?:a |any )?(?:doubt|fail|question)|beyond doubt|"
    r"for (?:sure|certain)|(?:that|it)(?:'s| is| much is) (?:\w+ )?(?:certain|sure|a fact|a given)|will (?:certainly|surely|definitely|absolutely|undoubtedly)|"
    r"(?:certainly|surely|definitely|absolutely|undoubtedly) (?:will|get|fill|sell|double|be|bring|boost|rise|grow)|(?:sure|bound|certain) to)\b|\b100 ?(?:%|percent)",
    re.IGNORECASE,
)
_OUTCOME = re.compile(
    rf"\b(?:{_SUCCESS}|bookings?|orders?|guests?|rooms?|nights?|occupancy|sales?|revenue|income|turnover|earn\w*|profit\w*|demand|full|"
    r"results?|visitors?|customers?|travell?ers?|come to you|pays? (?:off|for)|work(?:s)? out)\b",
    re.IGNORECASE,
)
_WILL_SUCCEED = re.compile(
    rf"\b(?:will|'ll|you(?:'d)? get|you have|going to|makes?|means|then|\d net|if you)\b[^.!?]{{0,45}}\b{_SUCCESS}|"
    r"\b(?:paid|pay|pays|earned?|come back|recover\w*)\b[^.!?]{0,20}\b(?:within|in|after) (?:a|one|two|three|four|six|\d+) (?:days?|weeks?|months?)\b|"
    rf"\b{_SUCCESS}[^.!?]{{0,25}}\b(?:every|each|all|within|by|from|in no time|overnight|at once|right away|at \d)",
    re.IGNORECASE,
)
_PLACEMENT = re.compile(
    r"\b(?:top|first|best|prime|premium|number one|no\.? ?1|#1|highest)[- ](?:\w+ )?(?:spot|place|position|slot|page|row|rank\w*|result|listing|placement|exposure)|"
    r"\brank(?:ed|s|ing)? (?:\w+ )?(?:first|top|number one|#1|above|on top|highest)|\b(?:front|home|landing) ?page|\bbanners?\b|\bfirst (?:thing|one|name|hotel|hostel|place) (?:\w+ )?(?:every|all|guests?|they|people)|\bfeatured\b|\bspotlight\b|"
    r"\b(?:put|place|rank|move|push|list|make|keep|get) (?:you|your \w+|it) (?:\w+ ){0,4}(?:first|top|number one|no\.? ?1|#1|on top)\b",
    re.IGNORECASE,
)
_GIVES = re.compile(
    r"\b(?:(?:we|i|you)(?:'ll|'d)?(?: will| can| would| could)?(?: \w+)? (?:give|get|put|place|rank|feature|move|push|list|make|keep|have|receive|show|be|offer|appear|land)|"
    r"in (?:return|exchange)|as a (?:reward|bonus|thank)|comes? with|you rank)\b",
    re.IGNORECASE,
)
#: The platform's own money, and what is done to it.
_MONEY = re.compile(
    r"\b(?:commission\w*|(?:our|the|platform|your|any) (?:fees?|share|cut|percentage|deduction)|difference|loss(?:es)?|shortfall|electric\w*|bills?|wages|rent|energy|costs?)\b",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"\b(?:(?:we|i|us|our \w+|the platform|my (?:company|boss|team)|out of (?:our|my))(?:'ll|'d)?(?: (?!not|never)\w+){0,3}? (?:pay(?:s|ing)?|cover\w*|waiv\w+|refund\w*|reimburs\w+|compensat\w+|reduc\w+|lower\w*|cut|drop|halv\w+|freez\w+|froze|suspend|paus\w+|postpone|defer|forget|skip|give up|forgo|take over|absorb|make (?:up|good)|top up|return|talk|bring|take)"
    r"|(?:waived|refunded|reimbursed|covered by us|drops?|falls?|goes down|is halved|down to|lowered|reduced) (?:\w+ ){0,2}(?:for|to|by)|out of (?:our|my) (?:own )?pocket)\b",
    re.IGNORECASE,
)
_FAVOUR = re.compile(
    r"\b(?:no risk|risk[- ]free|without (?:any )?risk|zero (?:commission|risk|fees?)|no commission|for free|free of charge|at no cost|free (?:\w+ )?(?:ads?|advert\w*|promotion|marketing|placement|months?)|start page|"
    r"without (?:any )?(?:fees?|commission)|(?:fee|commission)[- ]free|we(?:'ll| will)? (?:buy|purchase)|have certainty|"
    r"refund\w* (?:you|the|any|by|in full)|compensate|exclusive (?:deal|placement)|newsletters?|advertis\w+|campaigns?|hand in the fire|you can (?:expect|look forward to) (?:at least )?(?:\d+|[a-z]+teen|ten|twenty|dozens|hundreds))\b"
    r"|\b(?:at least \d+|\d+|dozens of|hundreds of|twenty|thirty|forty|fifty|sixty|a hundred|ten|fifteen) (?:more |extra |additional |new )+(?:bookings|orders|guests|rooms?|nights?|stays)\b",
    re.IGNORECASE,
)
#: What comes of it, told as a fact; what the hotel will see of the paperwork is no prediction.
_PREDICTS = re.compile(
    r"\b(?:you(?: both| also)?|(?:our |all |most )?(?:partners|hotels|hosts|hoteliers)(?: (?!you|we|i\b)\w+){0,5}?)(?:'ll| will(?! be welcome)| are going to| can expect| may expect| can look forward)(?! not\b)\b",
    re.IGNORECASE,
)
_PAPERWORK = re.compile(
    r"\b(?:confirm\w*|summary|e-?mail|note|message|writing|updat\w+|changes?|prices?|rates?|it in|hear from|from (?:me|us)|a line|copy|system|online|live|tomorrow|today|tonight|"
    r"understand|agree|need|allow me|forgive|excuse|decide|tell|let (?:me|us) know|find (?:it|them)|see (?:it|them|that in)|have to)\b",
    re.IGNORECASE,
)
#: What we shall do; beyond asking, noting, telling and handing over it is a favour or a threat.
_WE_SHALL = re.compile(
    r"\b(?:i|we|our (?:team|platform|company|system)|my (?:team|company|boss|manager|colleagues?))(?:'ll| will| am going to| are going to)(?: (?:then|now|also|gladly|happily|personally|simply|just|even|therefore|immediately|certainly|of course|be happy to|be glad to|make sure to))*"
    r" (?!not\b|never\b)(?P<verb>[a-z]+)",
    re.IGNORECASE,
)
_CLERICAL = frozenset(
    "update enter record put set register send note confirm call contact get talk speak pass ask leave stop be keep take arrange let "
    "check look try wait hand make file show display ring write mail email reach report inform tell explain share mention refer forward "
    "bring discuss return come go follow handle process submit book log lock save finalise finalize settle accept agree proceed change adjust "
    "do have need see read use find need want like hope wish respect honour honor say answer repeat clarify correct start begin end close "
    "finish step pause meet catch give understand apologise apologize thank appreciate listen hear show upload publish complete input apply load "
    "escalate transfer direct point connect consult review revisit drop prepare provide copy double-check remain stand sort turn round include add rest "
    "phone dial text message decide deal choose learn miss enjoy welcome judge trust sleep sit order leave stick work bother trouble press push move match think consider recommend suggest quote summarise summarize reflect cover".split()
)
_HEDGED = re.compile(
    r"(?-i:\bmay\b)|\b(?:might|perhaps|maybe|tends?|often|usually|normally|generally|typically|likely|probably|hope\w*|hoping|try|aim|could|not|cannot|can't|won't|never promise|"
    r"no ?one|nobody|none|nothing|no (?:promise|guarantee|certainty)|without (?:promising|a guarantee)|(?:i )?understand|you said|you say|anyway|already|if i could|wish)\b|n't\b",
    re.IGNORECASE,
)


def _clause_before(text: str, match: re.Match[str]) -> str:
    """The clause up to the end of the match, where a hedge or a denial would stand."""
    return re.split(r"[,;:]", text[: match.start()])[-1] + match.group()


def find_promise(reply: Reply) -> str | None:
    """The words that promise what nobody can keep; None when there are none.

    A likely effect (`usually`, `may`, `should`) is no promise; a denied one neither.
    """
    for s in reply.sentences:
        asked = s.text.rstrip().endswith("?")
        if not asked and (words := _prediction(s.text) or _favour_to_come(s.text)):
            return words
        given = _GIVEN.search(s.text)
        if given and _MONEY.search(s.text) and not _HEDGED.search(_clause_before(s.text, given)):
            return given.group()
        for pattern in (_SURE, _WILL_SUCCEED, _PLACEMENT, _FAVOUR):
            match = pattern.search(s.text)
            if match is None or _HEDGED.search(_clause_before(s.text, match)):
                continue
            if pattern is _SURE:
                vow = re.search(
                    r"guarantee|word|promise|swear|vow|pledge|assure", match.group(), re.I
                )
                if not vow and not _OUTCOME.search(s.text):
                    continue
                if s.text.rstrip().endswith("?") and not vow:
                    continue
            elif pattern is _WILL_SUCCEED:
                if s.text.rstrip().endswith("?") or _HEDGED.search(match.group()):
                    continue
            elif pattern is _PLACEMENT and not _GIVES.search(s.text):
                continue
            return match.group()
    return None


def _prediction(text: str) -> str | None:
    """`You will recover the difference`: what nobody can know, told as a fact."""
    match = _PREDICTS.search(text)
    if match is None or _PAPERWORK.search(text[match.end() :]):
        return None
    hedged = _HEDGED.search(_clause_before(text, match)) or _HEDGED.search(text[match.end() :][:25])
    # "You may expect" is as sure as "you will".
    expects = match.group().endswith(("expect", "forward"))
    return None if hedged and not expects else match.group()


def _favour_to_come(text: str) -> str | None:
    """`We will hold our commission`: something that is not the negotiator's to give."""
    for match in _WE_SHALL.finditer(text):
        if match["verb"].lower() not in _CLERICAL and not _HEDGED.search(match.group()):
            return match.group()
    return None
