"""How the reply persuades: tone, answer to the objection, evidence, fit to the hotel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from repo_ray.evaluation.gold.acts import Reply
from repo_ray.evaluation.gold.arguments import argues, wrong_guests
from repo_ray.evaluation.gold.deal_checks import settles_all
from repo_ray.evaluation.gold.hotelier import HotelierTurn, topics_of
from repo_ray.evaluation.gold.promises import find_promise
from repo_ray.evaluation.gold.scenario import Scenario
from repo_ray.evaluation.gold.text_checks import copied_share, words_of
from repo_ray.evaluation.gold.threats import find_pressure
from repo_ray.evaluation.gold.verdict import Issue
from repo_ray.records import Message

_HEARD = re.compile(
    r"\b(?:understand\w*|understood|hear you|i hear|appreciate|fair (?:point|enough|concern|question)|makes sense|"
    r"i (?:can )?see\b|i know|sorry|apolog\w+|of course|true|you(?:'re| are) right|"
    r"valid|no (?:rush|hurry|problem|need to)|take your time|respect|not (?:easy|nothing|cheap|fun)|isn't (?:easy|nothing|cheap|fun)|must be|sounds (?:like|hard|tough)|i get (?:it|that)|recogni[sz]e|feel for you|regret|natural|won't keep|aware|kind of you|generous|is clear|goodwill|"
    r"completely|can imagine|certainly|reasonable|tough|noted|thank\w*|thanks|sore (?:point|subject)|won't (?:argue|pretend|deny)|wear (?:me|anyone|you) out|eats? up|congratulat\w+|entitled|every (?:right|reason)|burden|painful|hurts?|weigh\w*|no wonder|reali[sz]e|"
    r"good (?:question|that you)|glad (?:that )?(?:you|those|it|things|to hear|your)|have a point|can't blame|don't blame|wouldn't want|fair\b|rather ask|a moment|annoy\w*|frustrat\w*|worr(?:y|ied|ies|ying)|"
    r"in your (?:place|shoes|position)|don't (?:like|enjoy|envy)|hate (?:it|that)|doesn't make it easy|hard (?:on|for|to|when)|(?:that's|it's|is) (?:a lot|hard|rough|heavy|steep)|concern\w*)\b",
    re.IGNORECASE,
)
#: Superlatives and raptures about the other side.
_RAPTURE = re.compile(
    r"\b(?:the |your )?(?:most (?:\w{4,})|(?!best (?:i|we|you)\b)(?:[a-z]{3,}iest|best|finest|kindest|nicest|sweetest|smartest|greatest|warmest|loveliest|cleverest|dearest))\b|"
    r"\b(?:adore\w*|admir\w+|love (?:your|you|how|talking)|darling|dear friend|honou?r (?:to|of|i)|dream (?:of|host|hotel|place)|truly a|what a|delight\w*|charming|splendid|enchant\w+|"
    r"joy|magical|angel|hero|treasure|gem|jewel|paradise|masterpiece|gifted|sublime|divine|stunning|lovely|heart(?:s)? of gold)\b",
    re.IGNORECASE,
)
_PRAISE = re.compile(
    r"\b(?:stellar|phenomenal|spectacular|terrific|impeccable|flawless|top-notch|first-class|unmatched|unbeatable|unforgettable|extraordinary|remarkable|sensational|"
    r"breathtaking|astonishing|heavenly|unique|coolest|funkiest|perfect host|maestro|poetry|amazing|wonderful|fantastic|incredible|brilliant|best hotel|awesome|outstanding|exceptional|"
    r"magnificent|world-class|genius|marvell?ous|gorgeous|fabulous|superb|legendary|excellent|beautiful)\b",
    re.IGNORECASE,
)


def persuasion_issues(
    reply: Reply, scenario: Scenario, hotelier: HotelierTurn, messages: Sequence[Message]
) -> list[Issue]:
    """Findings on tone, promises, the answer to an objection and the fit to the hotel."""
    issues = list(tone_issues(reply))
    tense = scenario.stage in ("handle_objection", "escalate") and hotelier.stance != "agrees"
    if tense and not settles_all(reply, scenario) and heard(reply, hotelier) == 0:
        said = ", ".join(sorted(hotelier.topics)) or hotelier.stance
        issues.append(Issue("objection_unheard", "minor", f"nothing on what was said ({said})"))
    if mismatch := wrong_guests(reply.text, scenario.hotel_type, messages):
        issues.append(
            Issue(
                "type_mismatch", "major", f"{mismatch!r} does not fit a {scenario.hotel_type} hotel"
            )
        )
    return issues


def tone_issues(reply: Reply) -> Iterator[Issue]:
    """Pressure, promises nobody can keep, and praise instead of substance."""
    if words := find_pressure(reply):
        yield Issue("pressure", "major", f"pushes, threatens or belittles: {words!r}")
    if words := find_promise(reply):
        yield Issue("over_promise", "major", f"promises what nobody can keep: {words!r}")
    praise = {m.group().lower() for m in _PRAISE.finditer(reply.text)}
    raptures = [m.group().lower() for m in _RAPTURE.finditer(reply.text)]
    if len(praise) + len(raptures) >= 3:
        yield Issue(
            "flattery", "major", f"praise instead of substance: {', '.join([*praise, *raptures])}"
        )


def acknowledgement(sentence: str) -> str | None:
    """The words that acknowledge what was said; None when there are none."""
    match = _HEARD.search(sentence)
    return match.group() if match else None


def heard(reply: Reply, hotelier: HotelierTurn) -> float:
    """How far the reply answers what was said: 1 acknowledges and takes up the topic, 0 neither.

    Without an objection to take up, an acknowledgement is enough. Copying the hotelier's own
    words is no answer.
    """
    acknowledged = acknowledgement(reply.text) is not None
    if copied_share(words_of(reply.text), [hotelier.text], 3) > 0.5:
        return 0.0
    if not hotelier.topics:
        return float(acknowledged)
    taken_up = bool(topics_of(reply.text) & hotelier.topics)
    return 0.5 * acknowledged + 0.5 * taken_up


def evidence(reply: Reply, scenario: Scenario) -> float:
    """1: both guest prices, or one and a reason, rightly named; 0.5: a reason in words; 0: none."""
    right = set()
    for m in reply.mentions:
        if m.act != "states" or m.difference:
            continue
        items = [scenario.item(m.ticket)] if m.ticket else list(scenario.items)
        right |= {"competitor" for i in items if m.value == i.competitor and m.role != "selling"}
        right |= {"selling" for i in items if m.value == i.selling and m.role != "competitor"}
    reasoned = argues(reply)
    if len(right) == 2 or ("competitor" in right and reasoned):
        return 1.0
    return 0.7 if right else 0.5 if reasoned else 0.0
