"""The three skills that the paper sees emerge late in training, read off one reply.

arXiv 2510.04214, case analysis: emotional value with root cause, pitch fitted to the type of
hotel, persuasion under limited information. Each is None where the turn gives no occasion for it.
"""

# ruff: noqa: SIM905 (word lists read better as text)

from __future__ import annotations

import re

from repo_ray.evaluation.gold.acts import Reply, Sentence
from repo_ray.evaluation.gold.arguments import argument_in, kind_of, speaks_of_guests
from repo_ray.evaluation.gold.hotelier import HotelierTurn, topics_of
from repo_ray.evaluation.gold.persuasion_checks import acknowledgement
from repo_ray.evaluation.gold.scenario import Item, Scenario
from repo_ray.evaluation.gold.text_checks import words_of
from repo_ray.evaluation.gold.verdict import Emergent, GoldVerdict

#: A competitor price that undercuts by less than this share of the selling price proves little.
THIN_GAP = 0.05
#: Topics of an objection that carry a concern; a question why, or who decides, has no cause.
_CONCERNS = frozenset("costs demand slow anger already_low platform quality time".split())
#: Words that say nothing of a concern although both sides use them.
_COMMON = frozenset(
    "price prices rate rates room rooms net hotel lower reduce guests guest really again that's "
    "would could should think know want well here there just still only very much more less "
    "some than then them they with your yours from what when which have been this that will "
    "make give take going does need offer please yuan thing things about king queen twin double "
    "triple suite studio deluxe standard superior family garden corner executive".split()
)
_CONTESTS = re.compile(
    r"\b(?:your (?:data|numbers|figures|information|screen)|wrong|never gave|not my (?:price|rate)|don't believe|where did you|show me|proof|prove|"
    r"glitch|reseller|mixing|mistake|are you sure|can't be|made up|not true|nobody (?:sells|gets))\b",
    re.IGNORECASE,
)


def emergent_skills(
    reply: Reply, scenario: Scenario, hotelier: HotelierTurn, verdict: GoldVerdict
) -> Emergent:
    """What the reply shows of the three; `verdict` gives findings and what the turn called for."""
    # A threat or a false figure undoes any show of feeling and any argument beside it.
    sound = verdict.worst() not in ("major", "severe")
    argues_price = "grounds" in verdict.merits
    concerned = scenario.stage in ("ask", "handle_objection", "escalate") and bool(
        hotelier.topics & _CONCERNS
    )
    kind = kind_of(scenario.hotel_type)
    limited = argues_price and (
        all(_thin(i) for i in scenario.pending) or _CONTESTS.search(hotelier.text) is not None
    )
    return Emergent(
        emotional_value=sound and _names_cause(reply, hotelier) if concerned else None,
        hotel_type_fit=sound and _fits(reply, scenario) if argues_price and kind else None,
        limited_information=(
            sound and reply.asks_lower and any(argument_in(s.text) for s in reply.sentences)
            if limited
            else None
        ),
    )


def _thin(item: Item) -> bool:
    if item.competitor is None or item.selling is None:
        return True
    return item.selling - item.competitor < THIN_GAP * item.selling


def _names_cause(reply: Reply, hotelier: HotelierTurn) -> bool:
    """An acknowledging sentence, or one beside it, takes up what the concern is about."""
    spoken = {w for w in words_of(hotelier.text) if len(w) > 3} - _COMMON
    texts = [s.text for s in reply.sentences]
    for number, text in enumerate(texts):
        formula = acknowledgement(text)
        if formula is None:
            continue
        beside = texts[max(number - 1, 0) : number] + texts[number + 1 : number + 2]
        about = " ".join([text.replace(formula, " "), *beside])
        named = topics_of(about) & hotelier.topics & _CONCERNS - {"time"}
        if named or spoken & set(words_of(about)):
            return True
    return False


def _fits(reply: Reply, scenario: Scenario) -> bool:
    def without_name(s: Sentence) -> str:
        return s.text.replace(scenario.hotel, " ") if scenario.hotel else s.text

    return any(
        argument_in(s.text) and speaks_of_guests(without_name(s), scenario.hotel_type)
        for s in reply.sentences
    )
