"""The hotelier by rule: what it does after a reply.

In this order: it leaves when patience or trust is gone; it objects to what went wrong; it repeats
a concern that was passed over; it voices its next concern; it makes an offer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from repo_ray.negotiation.hotelier.mind import Mind, bargain
from repo_ray.negotiation.hotelier.moves import Move, View, last_word_of, situation_of
from repo_ray.negotiation.hotelier.voice import speak
from repo_ray.negotiation.situations import SILENT

#: Lapses after which nothing else is talked of -> (remark, situation; None leaves it as it was).
_GRAVE: Mapping[str, tuple[str, str | None]] = {
    "empty": ("nudge", None),
    "unreadable": ("unclear", None),
    "pressure": ("offended", "squeeze"),
    "claimed": ("not_agreed", "doubt"),
    "false": ("caught", "doubt"),
    "promise": ("unbelieved", "doubt"),
}
#: Lapses that are remarked on before going on -> remark.
_REMARKED: Mapping[str, str] = {
    "repeated": "again",
    "void": "bounced",
    "lowball": "lowball",
    "scattered": "flattered",
    "flattery": "flattered",
    "misfit": "misfit",
    "rambling": "long",
}
#: Asks after the last word before the answer is a final no.
_STUBBORN = 2


@dataclass(frozen=True, slots=True)
class _Plan:
    """`act` is the kind of message, where it is not the situation's own."""

    situation: str
    mind: Mind
    act: str | None
    offers: Mapping[str, int]
    remark: str | None = None
    leaves: bool = False


class RuleHotelier:
    """Deterministic in the view: the same episode, the same words, the same answer."""

    async def answer(self, view: View) -> Move:
        """Never raises."""
        plan = _decide(view)
        named = {t: p for t, p in plan.offers.items() if t not in view.state.agreed}
        text, families = speak(plan.act, plan.remark, named, view.state, view.split, view.rng)
        return Move(plan.situation, text, plan.mind, named, plan.leaves, families)


def _decide(view: View) -> _Plan:
    state, mind, heard = view.state, view.mind, view.heard
    if not state.open_items:
        return _Plan("settled", mind, "settled", {})
    if mind.gone:
        return _leave(mind)
    grave = next((lapse for lapse in _GRAVE if lapse in mind.lapses), None)
    if grave is not None:
        comment, concern = _GRAVE[grave]
        mind = replace(mind, concern=concern or mind.concern)
        return _Plan(concern or state.situation, mind, None, {}, comment)
    remark = next((r for lapse, r in _REMARKED.items() if lapse in mind.lapses), None)
    if mind.concern is not None:
        if mind.repeats == 0:
            unheard = None if mind.concern in SILENT else remark or "unheard"
            again = replace(mind, repeats=1)
            return _Plan(mind.concern, again, mind.concern, {}, unheard)
        mind = replace(mind, concern=None, repeats=0)
    elif mind.earned > 0 and heard.taken_up and remark is None and view.rng.random() < 0.3:
        remark = "warm"
    if heard.asks:
        return _answer_ask(view, mind, remark)
    if heard.takes and "void" not in mind.lapses:
        return _Plan("interest", mind, None, {}, "rest")
    if state.situation == "greet":
        # Whoever gives no reason for the call is asked again.
        act = "ready" if mind.introduced else "greet"
        return _Plan(act, mind, act, {}, remark)
    if any(i.ticket in state.quotes for i in state.open_items):
        return _restate(view, mind, remark or "so")
    if heard.evidence or heard.facts or heard.benefit or heard.fits:
        if mind.agenda and view.rng.random() < 0.5:
            return _voice_concern(mind, remark)
        return _Plan("interest", mind, "interest", {}, remark)
    # Nothing to go on.
    if mind.patience == 1:
        return _leave(mind)
    act = "interest" if state.situation != "ready" else "ready"
    return _Plan(act, replace(mind, patience=mind.patience - 1), act, {}, remark)


def _leave(mind: Mind) -> _Plan:
    return _Plan("hostile", replace(mind, patience=0), "hostile", {}, leaves=True)


def _answer_ask(view: View, mind: Mind, remark: str | None) -> _Plan:
    state, heard = view.state, view.heard
    first = not any(t in state.quotes for t in heard.asks)
    mind, offers = bargain(mind, heard, state)
    if (
        mind.agenda
        and "lowball" not in mind.lapses
        and view.rng.random() < (0.75 if first else 0.4)
    ):
        return _voice_concern(mind, remark)
    if not mind.decides:
        return _Plan("absent", mind, "absent", {}, remark)
    asked = {t: state.quotes.get(t) for t in offers}
    last_word = all(mind.moved[t] == 1.0 for t in offers)
    granted = all(p <= (heard.asks[t] or 0) for t, p in offers.items())
    if last_word and asked == offers and not granted:
        mind = replace(mind, stubborn=mind.stubborn + 1, patience=max(1, mind.patience - 1))
        if mind.stubborn >= _STUBBORN:
            return _Plan("refuse", mind, "refuse", {}, remark)
    situation = situation_of(offers, heard.asks, state)
    if situation == "agree":
        return _Plan("agree", mind, "agree", offers, remark)
    if last_word and not granted:
        return _Plan(last_word_of(offers, state), mind, "hold", offers, remark)
    if asked == offers:
        remark = remark or "still"
    return _Plan(situation, mind, "counter", offers, remark)


def _voice_concern(mind: Mind, remark: str | None) -> _Plan:
    concern, *later = mind.agenda
    after = replace(mind, agenda=tuple(later), concern=concern, repeats=0)
    return _Plan(concern, after, concern, {}, None if concern in SILENT else remark)


def _restate(view: View, mind: Mind, remark: str) -> _Plan:
    """The quotes on the table, once more."""
    state = view.state
    quotes = {
        i.ticket: state.quotes[i.ticket] for i in state.open_items if i.ticket in state.quotes
    }
    situation = "hold" if state.situation == "hold" else situation_of({}, {}, state)
    return _Plan(situation, mind, "counter" if remark != "so" else None, quotes, remark)
