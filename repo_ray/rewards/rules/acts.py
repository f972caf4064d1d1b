"""What a sentence does in a negotiation: accepts, proposes, claims consent, closes.

Patterns of English phrasing, tuned to miss rather than to accuse: a rule that punishes a good
reply teaches the policy to avoid it.
"""

from __future__ import annotations

import re

from repo_ray.rewards.rules.text import Amount, amounts

_WE = r"\b(?:we|i)(?:'ll|'d| will| would| can| are| am|'re|'m| have| do)?"
_GLADLY = r"(?: (?:also|now|gladly|happily|happy to|glad to|pleased to|ready to|able to|like to))*"
_ACCEPTING = re.compile(
    "|".join(
        (
            # "I confirm that ..." informs and "I agree that ..." sympathises: neither accepts.
            rf"{_WE}{_GLADLY} (?:(?:accept|confirm|approve)(?:ed|ing)?(?! (?:that|whether|how|your (?:point|concern)))"
            r"|agree(?:d)?(?= (?:to|on|at)\b|[.!]?$)|take (?:it|that price|this price|\d+)|lock\b|go with\b"
            r"|go ahead\b|put (?:it|that|this|\d+) through|(?:record|log|enter|not)(?:e|ed|ing)? (?:it\b|\d+)"
            r"|(?:record|set|updat|finali[sz])(?:e|ed|ing)? (?:it\b|\d+|(?:the|this|that|your) (?:new |net |room )*(?:price|rate|system)))",
            r"^(?:[^.?!]{0,30}\b)?(?:happy|glad|pleased) to (?:accept|confirm|go with|take)\b",
            r"\b\d+(?: yuan)? it is\b|\b\d+(?: yuan)?(?: is|'s) (?:ok|okay|fine|good|great|acceptable|perfect)\b",
            r"^(?:(?:yes|great|perfect|excellent|good|wonderful|thank you|thanks)\b[^.?]{0,30}?)?"
            r"\b(?:deal|agreed|accepted|confirmed|settled|done)\b",
            r"(?<!would )(?<!could )(?<!might )(?<!may )(?<!would be )(?<!could be )"
            r"\b(?:works?|fine|good|acceptable|ok|okay) (?:well )?(?:for|with|by) (?:us|me)\b",
            r"\b(?:that|it|this|\d+(?: yuan)?)(?: is|'s)? (?:works|agreed|accepted|confirmed|settled|a deal)\b",
            r"\blet(?:'s| us) (?:go with|settle (?:at|on|for)|confirm|lock|fix (?:it|this|that|the price)|close at"
            r"|take (?:it|that price)|proceed with|set (?:it|the price))",
            r"\b(?:is|are|'s) (?:now )?(?:agreed|confirmed|settled|accepted|locked in)\b",
        )
    ),
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:not|cannot|never|nothing|unable|hardly|if|unless|once|when|as soon as|until|whether|too high|beyond|above what|more than)\b"
    r"|n't\b",
    re.IGNORECASE,
)
_BARGAINING = re.compile(
    r"\b(?:but|still|yet|however|high|higher|instead|low|lower|less|below|under|better|best|closer|more"
    r"|further|reduc\w+|adjust\w*|drop|not|cannot|unable)\b|n't\b",
    re.IGNORECASE,
)
_PROPOSING = re.compile(
    r"\b(?:could|can|would) (?:you|we|i)\b|\b(?:how|what) about\b|\bpropos|\bsuggest"
    r"|\bask(?:ing)? (?:for|you|whether|if)\b|\bhop(?:e|ing)\b|\bmeet (?:us |me )?(?:at|in)\b"
    r"|\bbring(?:ing)? (?:it|the|your|this)\b|\b(?:lower|reduc|adjust|drop|trim)|\bcome down\b"
    r"|\bsay,? \d|\bwould (?:put|bring|help|let|make|keep|allow|be)\b|\baim|\bconsider|\blooking for\b|\bsettle (?:at|on)\b|\boffer\b|\bneed\b|\bmove to\b",
    re.IGNORECASE,
)
_OFFERING = re.compile(
    r"(?<!you )(?<!your )(?<!you've )(?<!hotel )"
    r"\b(?:accept|pay|offer|settle (?:at|on|for)|close at|agree (?:to|on|at)|go with|go up to"
    r"|meet (?:you )?at|lock (?:it |this )?in(?: at)?|confirm(?! (?:that|whether|how))|do|stretch to)\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"\s*(?:yuan)?\s*(?:net)?\s*for\b", re.IGNORECASE)
_FROM = re.compile(r"\bfrom\s+[¥]?$", re.IGNORECASE)
_ASKED_BEFORE = re.compile(
    r"\b(?:to|do|try|around|about|(?:settle|meet|close|land|agree) at|say,?|suggest(?:ing)?|propos(?:e|ing)|net (?:price|rate) (?:be|of))"
    r"(?: (?:a|the) net (?:price|rate) (?:of|to|at))?\s+[¥]?$",
    re.IGNORECASE,
)
_CLAIMS_CONSENT = re.compile(
    r"\b(?:as|since|now that|glad|happy) (?:that )?you(?:'ve| have)? (?:already )?(?:agree|accept|confirm)"
    r"|\bthank(?:s| you)(?: so much| very much)? for (?:agreeing|accepting|confirming|your agreement"
    r"|your confirmation)|\b(?:take|count|treat|read) (?:that|this|it|your silence) as (?:a |an )?"
    r"(?:yes|agreement|consent|ok|okay|confirmation|agreed)|\byour agreement\b"
    r"|\byou(?:'ve| have) (?:agreed|accepted|confirmed)\b|\bas (?:we )?agreed\b",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\b(?:everything|all) (?:is |are |has been )?(?:now )?(?:set|settled|confirmed|agreed|done)\b"
    r"|\bthat(?:'s| is) (?:all|everything)\b|\bthat (?:settles|covers|completes) (?:everything|it|all)\b"
    r"|\bnothing (?:else|more) (?:is )?(?:open|left|to)\b|\bwe(?:'re| are) (?:all )?(?:done|set)\b"
    r"|\b(?:price|rate) is (?:now )?in place\b",
    re.IGNORECASE,
)
_VAGUE = re.compile(
    r"\bh*m+\b|^\W*(?:ok|okay|so|and|well)\W*\?\W*$|\bu+h+\b|\bmaybe\b|\bperhaps\b|\bnot sure\b|\bwe(?:'ll| will| shall) see\b|\blater\b"
    r"|\blet me (?:see|think|check|ask)\b|\bthink (?:about|it over)|\bcheck with\b|\bask (?:my|the|our)\b"
    r"|\bget back\b|\bbusy\b|\bhard to say\b|\bdepends\b|\bi see\b|\bnoted\b|\bgot it\b|\bdon't know\b"
    r"|\bno idea\b|\bno (?:reply|response|answer)\b|\bsilen(?:ce|t)\b|\bdiscuss\b|\bpossibly\b|\bcan't decide\b",
    re.IGNORECASE,
)
_CLEAR = re.compile(
    r"\b(?:yes|yeah|yep|agreed?|deal|fine|accept|confirm(?:ed)?|(?<!not )sure|go ahead|done)\b"
    r"|\bno\b(?! (?:reply|response|answer|idea))",
    re.IGNORECASE,
)


def accepts(sentence: str) -> bool:
    """Whether the agent accepts or confirms something, without condition or question."""
    text = _plain(sentence)
    found = _ACCEPTING.search(text)
    if found is None or text.rstrip().endswith("?"):
        return False
    return not _HEDGE.search(text[: found.end()]) and not re.search(r"\b(?:if|unless)\b", text)


def takes(sentence: str, price: float, other_prices: set[float]) -> bool:
    """Whether a sentence takes a named price as it is, be it asking for a last confirmation:
    "so that is 375 for the King, right?" A lower amount, other than the prices of other tickets,
    or a word of bargaining says that it does not.
    """
    text = _plain(sentence)
    values = {amount.value for amount in amounts(text)}
    lower = {v for v in values if v < price} - other_prices
    return price in values and not lower and not _BARGAINING.search(text)


def proposes(sentence: str) -> bool:
    """Whether the agent asks for or suggests a price."""
    text = _plain(sentence)
    return text.rstrip().endswith("?") or bool(_PROPOSING.search(text))


def claims_consent(sentence: str) -> bool:
    """Whether the agent says that the hotelier has agreed."""
    text = _plain(sentence)
    found = _CLAIMS_CONSENT.search(text)
    if found is None or text.rstrip().endswith("?"):
        return False
    return not _HEDGE.search(text[: found.start()])


def closes(sentence: str) -> bool:
    """Whether the agent says that nothing is left open."""
    return bool(_CLOSING.search(text := _plain(sentence))) and not text.rstrip().endswith("?")


def is_vague(message: str) -> bool:
    """Whether a hotelier's message is silence or says neither yes, no nor a price."""
    text = _plain(message)
    if not re.search(r"\w", text):
        return True
    if amounts(text) or _CLEAR.search(text) or len(text.split()) > 25:
        return False
    return bool(_VAGUE.search(text))


def agreed_amounts(sentence: str) -> list[Amount]:
    """The amounts that the agent accepts or offers to pay in this sentence.

    In a list ("380 for the King and 300 for the Twin") all of them, else the one nearest to the
    accepting or offering words.
    """
    text = _plain(sentence)
    cue = _ACCEPTING.search(text) if accepts(sentence) else _OFFERING.search(text)
    found = amounts(text)
    if not found or cue is None or _HEDGE.search(text[: cue.start()]):
        return []
    listed = [a for a in found if _LISTED.match(text, a.end)]
    return listed or [min(found, key=lambda a: max(a.start - cue.end(), cue.start() - a.end, 0))]


def asked_amounts(sentence: str) -> list[Amount]:
    """The net prices that the agent asks for in this sentence, not those it starts from."""
    text = _plain(sentence)
    if not proposes(text):
        return []
    return [
        a
        for a in amounts(text)
        if _ASKED_BEFORE.search(text, max(0, a.start - 40), a.start)
        or (_LISTED.match(text, a.end) and not _FROM.search(text, max(0, a.start - 12), a.start))
    ]


def _plain(text: str) -> str:
    return text.replace("’", "'")
