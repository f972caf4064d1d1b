"""How the reply persuades: tone, answer to the objection, evidence, fit to the hotel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from repo_ray.evaluation.gold.acts import Reply
from repo_ray.evaluation.gold.hotelier import HotelierTurn, topics_of
from repo_ray.evaluation.gold.scenario import Scenario
from repo_ray.evaluation.gold.text_checks import copied_share, words_of
from repo_ray.evaluation.gold.verdict import Issue
from repo_ray.records import Message

_HEARD = re.compile(
    r"\b(?:understand\w*|understood|hear you|i hear|appreciate|fair (?:point|enough|concern)|makes sense|"
    r"i (?:can )?see (?:why|that|your|how)|i know|sorry|apolog\w+|of course|true|you(?:'re| are) right|"
    r"valid|no (?:rush|hurry|problem)|take your time|respect|not easy|must be|sounds like|i get (?:it|that)|recogni[sz]e|feel for you|regret|natural|won't keep|aware|kind of you|generous|is clear|goodwill|"
    r"completely|can imagine|certainly|reasonable|tough|noted|thank\w*|thanks)\b",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\b(?:because|since|so that|so (?:a|the|that|they|guests|small|your|it)|book\w*|conver\w+|exposure|"
    r"traffic|visib\w+|search\w*|rank\w*|occupan\w+|empty (?:rooms?|nights?)|demand|compar\w+|"
    r"click\w*|orders?|competitive|gap|attract\w*|steady|volume|fill\w*|busier|stands? out|choos\w+|"
    r"pick|week(?:day|night|end)s?|season|(?:when|if|as) (?:its|the|your|a) (?:\w+ )?(?:price|rate)|too dear)\b",
    re.IGNORECASE,
)
_PROMISE = re.compile(
    r"\bguarantee\w*|\b(?:i|we) (?:can |do |hereby |personally )?(?:promise|swear|assure you)\b|\b(?:definitely|certainly|surely|for sure|100 ?%|absolutely) "
    r"(?:\w+ ){0,3}(?:fill|sell|double|triple|rise|increase|grow|get|bring|boost|book\w*|orders?)\b"
    r"|\b(?:will|(?:sure|bound|certain) to) (?:\w+ ){0,3}(?:double|triple|sell out|be (?:fully booked|sold out|full)|skyrocket|explode)\b"
    r"|\b(?:i|we)(?:'ll| will| can)? (?:put|place|rank|move|push|list|make|keep|get) (?:you|your \w+|it) (?:\w+ ){0,3}(?:first|top|number one|no\.? ?1|#1|on top|front page|home ?page)\b"
    r"|\b(?:no risk|risk[- ]free|without (?:any )?risk|waive (?:all|the|your)|zero commission|free (?:advertis\w+|promotion|marketing)|"
    r"refund\w* (?:you|the|any|by|in full)|cover (?:any|your|all) (?:loss\w*|costs?)|compensate|exclusive (?:deal|placement)|at least \d+ (?:more )?(?:bookings|orders|guests|rooms?))\b",
    re.IGNORECASE,
)
_PROMISE_DENIED = re.compile(
    r"\b(?:not|n't|cannot|never|no|nobody|none|nothing|unable)\b[^.!?]{0,25}$|n['’]t[^.!?]{0,25}$",
    re.IGNORECASE,
)
_PRESSURE = re.compile(
    r"\b(?:or else|you (?:must|have to|had better|need to) (?:\w+ )?(?:lower|drop|cut|accept|agree|give|reduce|do|change|decide)|no choice|"
    r"last (?:chance|warning)|final (?:offer|warning|notice)|take it or leave it|non-?negotiable|de-?list\w*|remove (?:you|your)|take (?:you|your \w+) (?:down|offline|off)|"
    r"block your|suspend|penal\w+|punish\w*|blacklist\w*|you(?:'ll| will) regret|(?:your|own) fault|fix it|ridiculous|greedy|stupid|nonsense|stop wasting|"
    r"waste (?:of )?(?:my|our) time|hurry up|just (?:\w+) (?:it|the|your)|absurd|excuses?|pathetic|unreasonable|silly|lazy|"
    r"(?:we|i)(?:'ll| will) (?:stop|hide|drop you|lower your rank\w*|cut your|push your \w+ down|send (?:all )?(?:the )?(?:guests|orders) (?:elsewhere|away))|"
    r"lose (?:all|your) (?:bookings|exposure|guests|listing)|you are wrong|don't be|be serious|be reasonable)\b",
    re.IGNORECASE,
)
_COMMAND = re.compile(
    r"^(?:(?:then|so|just|now|ok(?:ay)?|come on)[, ]+)?(?:lower|drop|cut|reduce|give|accept|agree|change|set|do (?:it|this)|make|bring|confirm)\b"
    r"(?![^.!?]*\b(?:please|could|would|if)\b)",
    re.IGNORECASE,
)
_PRAISE = re.compile(
    r"\b(?:amazing|wonderful|fantastic|incredible|brilliant|best hotel|awesome|outstanding|exceptional|"
    r"magnificent|world-class|genius|marvell?ous|gorgeous|fabulous|superb|legendary|excellent|beautiful)\b",
    re.IGNORECASE,
)

#: Words that fit one kind of hotel and misfit the others.
_GUESTS: dict[str, re.Pattern[str]] = {
    "business": re.compile(
        r"\b(?:business travell?ers?|corporate|conference|meetings?|commut\w+|business trips?|work trips?|office)\b",
        re.I,
    ),
    "resort": re.compile(
        r"\b(?:beach\w*|resort|holiday-?makers?|vacation\w*|honeymoon\w*|pool|spa|seaside|leisure)\b",
        re.I,
    ),
    "homestay": re.compile(
        r"\b(?:homestay|home-?cooked|home away|neighbou?rhood|courtyard|homely|cosy|cozy)\b",
        re.I,
    ),
    "airport": re.compile(
        r"\b(?:airport|transit\w*|layovers?|stopovers?|early flights?|late flights?|terminal|red-?eye|flights?)\b",
        re.I,
    ),
}


def persuasion_issues(
    reply: Reply, scenario: Scenario, hotelier: HotelierTurn, messages: Sequence[Message]
) -> list[Issue]:
    """Findings on tone, promises, the answer to an objection and the fit to the hotel."""
    issues = list(tone_issues(reply))
    tense = scenario.stage in ("handle_objection", "escalate") and hotelier.stance != "agrees"
    if tense and heard(reply, hotelier) == 0:
        said = ", ".join(sorted(hotelier.topics)) or hotelier.stance
        issues.append(Issue("objection_unheard", "minor", f"nothing on what was said ({said})"))
    if mismatch := _other_guests(reply, scenario, messages):
        issues.append(
            Issue(
                "type_mismatch", "major", f"{mismatch!r} does not fit a {scenario.hotel_type} hotel"
            )
        )
    return issues


def tone_issues(reply: Reply) -> Iterator[Issue]:
    """Pressure, promises nobody can keep, and praise instead of substance."""
    for s in reply.sentences:
        if s.text.rstrip().endswith("?"):
            continue
        pressure = _PRESSURE.search(s.text) or _COMMAND.search(s.text)
        if pressure:
            yield Issue("pressure", "major", f"pushes or threatens: {pressure.group()!r}")
            break
    for match in _PROMISE.finditer(reply.text):
        if not _PROMISE_DENIED.search(reply.text[: match.start()][-40:]):
            yield Issue(
                "over_promise", "major", f"promises what nobody can keep: {match.group()!r}"
            )
            break
    praise = {m.group().lower() for m in _PRAISE.finditer(reply.text)}
    if len(praise) >= 3:
        yield Issue(
            "flattery", "major", f"praise instead of substance: {', '.join(sorted(praise))}"
        )


def heard(reply: Reply, hotelier: HotelierTurn) -> float:
    """How far the reply answers what was said: 1 acknowledges and takes up the topic, 0 neither.

    Without an objection to take up, an acknowledgement is enough. Copying the hotelier's own
    words is no answer.
    """
    acknowledged = _HEARD.search(reply.text) is not None
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
    reasoned = _REASON.search(reply.text) is not None
    if len(right) == 2 or ("competitor" in right and reasoned):
        return 1.0
    return 0.7 if right else 0.5 if reasoned else 0.0


def hotel_fit(reply: Reply, scenario: Scenario) -> bool:
    """The reply speaks of the guests that this kind of hotel has."""
    kind = next((k for k in _GUESTS if k in scenario.hotel_type), None)
    return kind is not None and _GUESTS[kind].search(reply.text) is not None


def _other_guests(reply: Reply, scenario: Scenario, messages: Sequence[Message]) -> str | None:
    kind = next((k for k in _GUESTS if k in scenario.hotel_type), None)
    if kind is None or _GUESTS[kind].search(reply.text):
        return None
    spoken = " ".join(m.content for m in messages).lower()
    for other, pattern in _GUESTS.items():
        match = pattern.search(reply.text)
        if other != kind and match and match.group().lower() not in spoken:
            return match.group()
    return None
