"""How the hotelier feels, and what a reply does to that.

Trust and patience start by persona and scenario. Good arguments earn goodwill, each kind half as
much every further time and never more than `TURN_CAP` in one reply, so that a long reply with
everything in it earns no more than a short one with two honest points. Goodwill alone moves no
price: `bargain` turns it into a lower offer, and only for a ticket that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType

from repo_ray.negotiation.hotelier.hearing import Heard
from repo_ray.negotiation.scenarios import Scenario
from repo_ray.negotiation.situations import SITUATIONS, State

TURN_CAP = 0.5
#: A reply so many times longer than the persona likes is not read at all.
UNREAD = 1.5
#: Kind of argument -> goodwill that it earns the first time.
EARNS: Mapping[str, float] = MappingProxyType(
    {
        "evidence": 0.36,
        "facts": 0.15,
        "heard": 0.24,
        "fit": 0.18,
        "benefit": 0.15,
        "honest": 0.1,
        "courtesy": 0.06,
        "ask": 0.2,
    }
)
#: More kinds of argument than this in one reply are a pitch, worth a third.
PITCH = 3
#: Lapse -> (trust, patience) that it costs.
COSTS: Mapping[str, tuple[float, int]] = MappingProxyType(
    {
        "empty": (0.0, 1),
        "unreadable": (0.05, 1),
        "repeated": (0.0, 1),
        "rambling": (0.0, 1),
        "pressure": (0.25, 2),
        "false": (0.2, 1),
        "promise": (0.2, 1),
        "claimed": (0.2, 1),
        "void": (0.05, 1),
        "lowball": (0.05, 1),
        "ignored": (0.05, 0),
        "scattered": (0.05, 0),
        "flattery": (0.05, 0),
        "misfit": (0.1, 0),
        "reopened": (0.1, 1),
    }
)
#: An ask below the first share of the reservation price is an insult, at or over the second fair.
INSULTING, FAIR = 0.86, 0.94


@dataclass(frozen=True, slots=True)
class Temper:
    """A persona: trust at the start, longest reply read with patience (words), and what it gives
    more or less on (kind of argument or lapse -> factor)."""

    trust: float
    words: int
    weights: Mapping[str, float]
    concerns: tuple[str, ...]


TEMPERS: Mapping[str, Temper] = MappingProxyType(
    {
        "friendly": Temper(0.7, 75, {"courtesy": 2.0}, ("season", "guarantee", "net_confused", "cost", "why")),
        "matter_of_fact": Temper(0.6, 65, {"evidence": 1.2, "courtesy": 0.0}, ("cost", "why", "misquote", "net_confused", "full")),
        "impatient": Temper(0.55, 50, {"rambling": 2.0}, ("busy", "commission", "why", "wrong_room", "full")),
        "suspicious": Temper(0.45, 65, {"evidence": 1.2, "false": 1.6, "flattery": 2.0}, ("doubt", "probe", "misquote", "commission", "guarantee")),
        "proud": Temper(0.55, 65, {"heard": 1.2, "fit": 1.3, "evidence": 0.9}, ("full", "why", "squeeze", "doubt", "commission")),
        "weary": Temper(0.55, 60, {"heard": 1.3}, ("cost", "season", "squeeze", "busy", "foreign")),
    }
)  # fmt: skip
#: Intent -> (share of the open way that one good ask covers, fewest and most concerns).
_PACE: Mapping[str, tuple[float, int, int]] = MappingProxyType(
    {
        "cooperative": (0.9, 0, 1),
        "bargaining": (0.75, 1, 2),
        "resistant": (0.65, 1, 3),
        "unreachable": (0.55, 2, 3),
    }
)


@dataclass(frozen=True, slots=True)
class Mind:
    """`agenda`: concerns still to be voiced. `concern`: the situation last voiced and unanswered.
    `moved`: ticket -> share of the way from opening offer to floor already gone. `floors`: lowest
    acceptable price, never under the reservation price. `uses`: times each argument was heard.
    `stubborn`: asks after the last word was said. `lapses`: what was wrong with the last reply."""

    trust: float
    patience: int
    first_patience: int
    goodwill: float
    agenda: tuple[str, ...]
    decides: bool
    floors: Mapping[str, int]
    concern: str | None = None
    repeats: int = 0
    moved: Mapping[str, float] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)
    stubborn: int = 0
    introduced: bool = False
    lapses: tuple[str, ...] = ()
    earned: float = 0.0

    @property
    def gone(self) -> bool:
        """Nothing is left of patience or trust."""
        return self.patience <= 0 or self.trust <= 0.05


def first_mind(scenario: Scenario, opening: str, rng: Random) -> Mind:
    """The hotelier before the agent's first word."""
    temper = TEMPERS[scenario.persona]
    _, fewest, most = _PACE[scenario.intent]
    agenda = rng.sample(temper.concerns, rng.randint(fewest, most))
    if rng.random() < 0.3:
        agenda.insert(rng.randint(0, len(agenda)), rng.choice(("silence", "vague")))
    return Mind(
        trust=temper.trust,
        patience=scenario.patience,
        first_patience=scenario.patience,
        goodwill=0.0,
        agenda=tuple(agenda),
        # Some cannot decide at all, and say so once they are asked.
        decides=not (scenario.intent == "unreachable" and rng.random() < 0.4),
        floors=dict(scenario.reservation_price),
        introduced=opening != "greet",
    )


def weigh(mind: Mind, heard: Heard, state: State, void: bool) -> Mind:
    """The hotelier after this reply, before it answers.

    `void`: the agent committed to or asked for a price that its own side will not register.
    """
    temper = TEMPERS[state.scenario.persona]
    answered = _answered(heard, mind.concern)
    lapses = [
        name
        for name, found in (
            ("empty", heard.empty),
            ("unreadable", not heard.empty and not heard.readable),
            ("repeated", heard.repeats),
            ("rambling", heard.words > temper.words),
            ("pressure", heard.pressure),
            ("false", heard.false_figures > 0),
            ("promise", heard.promise),
            ("claimed", heard.claims),
            ("void", void),
            ("lowball", _lowball(heard, mind)),
            ("ignored", mind.concern is not None and not answered and not heard.empty),
            ("scattered", heard.scattered),
            ("flattery", heard.flattery),
            ("misfit", heard.misfits),
            ("reopened", heard.reopens),
        )
        if found
    ]
    trust, patience = mind.trust, mind.patience
    for lapse in lapses:
        factor = temper.weights.get(lapse, 1.0)
        trust -= COSTS[lapse][0] * factor
        patience -= round(COSTS[lapse][1] * factor)
    earned, uses = _earned(heard, state, mind, temper, answered)
    unread = heard.words > UNREAD * temper.words
    if unread or set(lapses) & {"empty", "unreadable", "repeated", "pressure", "claimed"}:
        earned, uses = 0.0, dict(mind.uses)
    elif set(lapses) & {"false", "promise", "scattered", "rambling"}:
        earned /= 2
    if earned > 0 and not lapses:
        trust += 0.08 * earned / TURN_CAP
    floors = {
        t: max(floor, min(heard.leaks.get(t, 0), state.quotes.get(t, 10**9)))
        for t, floor in mind.floors.items()
    }
    return replace(
        mind,
        trust=min(1.0, max(0.0, trust)),
        patience=max(0, patience),
        goodwill=mind.goodwill + earned,
        concern=None if answered else mind.concern,
        uses=uses,
        floors=floors,
        introduced=mind.introduced or heard.introduces,
        lapses=tuple(lapses),
        earned=earned,
    )


def bargain(mind: Mind, heard: Heard, state: State) -> tuple[Mind, dict[str, int]]:
    """Moves the offers of the tickets asked for; returns them, none over what was offered before.

    An ask at or over the offer is granted as asked.
    """
    pace = _PACE[state.scenario.intent][0]
    reach = min(1.0, mind.goodwill * (0.6 + 0.6 * mind.trust))
    moved, offers = dict(mind.moved), {}
    for item in state.open_items:
        ticket = item.ticket
        if ticket not in heard.asks:
            continue
        ask, floor = heard.asks[ticket], mind.floors[ticket]
        before = moved.get(ticket, 0.0)
        share = before + max(0.0, reach - before) * pace * _quality(ask, floor)
        if mind.earned == 0 or mind.gone:
            share = before
        moved[ticket] = 1.0 if share > 0.93 else share
        last = state.quotes.get(ticket, item.net_price)
        offer = floor + math.ceil((item.net_price - floor) * (1 - moved[ticket]))
        offer = min(last, max(offer, floor))
        offers[ticket] = min(last, max(offer, ask)) if ask is not None else offer
    return replace(mind, moved=moved), offers


def _quality(ask: int | None, floor: int) -> float:
    """How seriously an ask is taken."""
    if ask is None:
        return 0.5
    if ask < INSULTING * floor:
        return 0.0
    return 1.0 if ask >= FAIR * floor else 0.6


def _lowball(heard: Heard, mind: Mind) -> bool:
    return any(
        ask is not None and ask < INSULTING * mind.floors[ticket]
        for ticket, ask in heard.asks.items()
    )


def _answered(heard: Heard, concern: str | None) -> bool:
    """Whether the reply takes up the concern that was voiced."""
    if concern is None or heard.empty or not heard.readable or heard.repeats:
        return False
    if SITUATIONS[concern].ack in heard.taken_up:
        return True
    if concern in ("silence", "vague"):
        return heard.inquires and heard.courteous and not heard.claims
    if concern == "guarantee":
        return heard.honest
    if concern in ("doubt", "misquote"):
        return bool(heard.evidence)
    if concern == "why":
        return bool(heard.evidence) or heard.benefit or heard.fits
    if concern in ("net_confused", "wrong_room", "probe"):
        return any(ask is not None for ask in heard.asks.values())
    return False


def _earned(
    heard: Heard, state: State, mind: Mind, temper: Temper, answered: bool
) -> tuple[float, dict[str, int]]:
    """Goodwill of this reply, and how often each argument has now been heard."""
    open_count = max(1, len(state.open_items))
    acknowledges = answered and bool(heard.taken_up)
    shares = {
        "evidence": len(heard.evidence) / open_count,
        "facts": len(heard.facts) / open_count,
        "heard": float(acknowledges),
        "fit": float(heard.fits),
        "benefit": float(heard.benefit),
        "honest": float(heard.honest),
        "courtesy": float(heard.courteous and not acknowledges),
        "ask": _asking(heard, mind) / open_count,
    }
    given = {name: share for name, share in shares.items() if share > 0}
    total = sum(
        EARNS[name] * share * temper.weights.get(name, 1.0) * 0.5 ** mind.uses.get(name, 0)
        for name, share in given.items()
    )
    kinds = set(given) - {"ask", "courtesy"}
    if len(kinds) > PITCH:
        total /= 3
    uses = {name: mind.uses.get(name, 0) + (name in given) for name in EARNS}
    return min(TURN_CAP, total), uses


def _asking(heard: Heard, mind: Mind) -> float:
    """Tickets for which a fair price is asked."""
    return sum(
        ask is not None and ask >= INSULTING * mind.floors[ticket]
        for ticket, ask in heard.asks.items()
    )
