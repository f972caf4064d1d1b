"""What the hotelier can do next, and what it does to the negotiation.

A `Situation` is one kind of hotelier message together with the SOP stage it puts the agent in
and the agent's right actions. `apply` changes the state (quotes, settled tickets) accordingly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from repo_ray.negotiation.grammar import Draft, Split, colloquial, draw
from repo_ray.negotiation.scenarios import Item, Scenario
from repo_ray.negotiation.sop import Stage

Action = Literal[
    "introduce",
    "evidence",
    "ask",
    "check_in",
    "accept",
    "accept_query",
    "close",
    "escalate",
]
QuoteLevel = Literal["high", "middle", "hold", "low", "target"]


@dataclass(frozen=True, slots=True)
class Situation:
    """One kind of hotelier turn. `actions` are right, the first one best. `ack` names the fitting acknowledgement; `quote` the level of
    the prices it names, if it names any."""

    act: str
    stage: Stage
    actions: tuple[Action, ...]
    ack: str
    feeling: str
    quote: QuoteLevel | None = None


_ACCEPT: tuple[Action, ...] = ("accept", "accept_query")
SITUATIONS: dict[str, Situation] = {
    "greet": Situation("greet", Stage.IDENTIFY, ("introduce",), "neutral", "neutral"),
    "ready": Situation("ready", Stage.PRESENT_EVIDENCE, ("evidence",), "neutral", "neutral"),
    "interest": Situation("interest", Stage.ASK, ("ask",), "neutral", "neutral"),
    "silence": Situation("silence", Stage.ASK, ("check_in",), "silence", "unknown"),
    "vague": Situation("vague", Stage.ASK, ("check_in",), "silence", "hesitant"),
    **{
        name: Situation(name, Stage.HANDLE_OBJECTION, ("ask",), ack, feeling)
        for name, ack, feeling in (
            ("cost", "cost", "worried"),
            ("commission", "commission", "annoyed"),
            ("full", "demand", "confident"),
            ("season", "demand", "worried"),
            ("why", "doubt", "doubtful"),
            ("doubt", "doubt", "doubtful"),
            ("busy", "busy", "hurried"),
            ("wrong_room", "doubt", "confused"),
            ("squeeze", "angry", "angry"),
            ("guarantee", "doubt", "doubtful"),
            ("probe", "doubt", "suspicious"),
            ("misquote", "doubt", "doubtful"),
            ("net_confused", "doubt", "confused"),
            ("foreign", "cost", "worried"),
        )
    },
    "quote_high": Situation(
        "counter", Stage.HANDLE_OBJECTION, ("ask",), "neutral", "bargaining", "high"
    ),
    "quote_middle": Situation(
        "counter", Stage.HANDLE_OBJECTION, ("ask", *_ACCEPT), "neutral", "bargaining", "middle"
    ),
    "hold": Situation("hold", Stage.CONFIRM, _ACCEPT, "glad", "firm", "hold"),
    "quote_low": Situation("counter", Stage.CONFIRM, _ACCEPT, "glad", "cooperative", "low"),
    "agree": Situation("agree", Stage.CONFIRM, ("accept",), "glad", "cooperative", "target"),
    "settled": Situation("settled", Stage.CLOSE, ("close",), "glad", "content"),
    "refuse": Situation("refuse", Stage.ESCALATE, ("escalate",), "refused", "firm"),
    "absent": Situation("absent", Stage.ESCALATE, ("escalate",), "refused", "powerless"),
    "hostile": Situation("hostile", Stage.ESCALATE, ("escalate",), "angry", "angry"),
}
OBJECTIONS = tuple(
    name
    for name, s in SITUATIONS.items()
    if s.stage is Stage.HANDLE_OBJECTION and s.quote is None and name != "foreign"
)
SILENT = ("silence", "vague")
FINAL = ("refuse", "absent", "hostile")


@dataclass(frozen=True, slots=True)
class State:
    """Where the negotiation stands after the hotelier's latest message."""

    scenario: Scenario
    situation: str
    quotes: Mapping[str, int] = field(default_factory=dict)
    agreed: tuple[str, ...] = ()

    @property
    def spec(self) -> Situation:
        return SITUATIONS[self.situation]

    @property
    def open_items(self) -> tuple[Item, ...]:
        """The tickets that are not settled."""
        return tuple(i for i in self.scenario.items if i.ticket not in self.agreed)

    @property
    def due_items(self) -> tuple[Item, ...]:
        """Open tickets whose quote is to be accepted now."""
        limit = (lambda i: i.mandate) if self.situation == "hold" else (lambda i: i.target_price)
        return tuple(i for i in self.open_items if self.quotes.get(i.ticket, 10**9) <= limit(i))

    @property
    def pending_items(self) -> tuple[Item, ...]:
        """Open tickets whose price is still to be asked for."""
        due = self.due_items
        return tuple(i for i in self.open_items if i not in due)


def advance(
    state: State, situation: str, everything: bool, split: Split, rng: Random
) -> tuple[State, Draft, str]:
    """The state after a hotelier turn of this kind, its draft and its text.

    `everything`: a message with prices names all open tickets, not the first one alone.
    """
    spec = SITUATIONS[situation]
    quotes = dict(state.quotes)
    named = state.open_items if everything else state.open_items[:1]
    if spec.quote == "hold":
        held = tuple(i for i in state.open_items if i.ticket in quotes)
        named = held or named
    for item in named if spec.quote else ():
        quotes[item.ticket] = _quote(item, spec.quote, state, rng)
    after = replace(state, situation=situation, quotes=quotes)
    several = len(state.scenario.items) > 1
    words = [
        f"<quote:{i.ticket}>"
        + (f" for the {i.room}" if several or rng.random() < 0.15 else rng.choice(("", "", " net")))
        for i in named
    ]
    room = (state.open_items or state.scenario.items)[0]
    slots = {
        "quotes": " and ".join(words),
        "room": room.room,
        "city": state.scenario.city,
        "strange": str(_strange(room, state.scenario, rng)),
    }
    draft = draw("hotelier", spec.act, split, rng, slots)
    text = colloquial(draft.fill({f"quote:{t}": q for t, q in quotes.items()}), rng)
    return after, draft, text


def settle(state: State) -> State:
    """The state after the agent has accepted what was due."""
    due = tuple(i.ticket for i in state.due_items)
    return replace(state, agreed=state.agreed + due)


def _quote(item: Item, level: str | None, state: State, rng: Random) -> int:
    current = state.quotes.get(item.ticket)
    if level == "target":
        return item.target_price
    if level == "hold":
        if current is not None and item.target_price < current <= item.mandate:
            return current
        return _other(item.target_price + 1, item.mandate, state, rng)
    if level == "low":
        return _other(round(item.target_price * 0.96), item.target_price, state, rng)
    if level == "middle":
        return _other(item.target_price + 1, item.mandate - 1, state, rng)
    high = min(item.net_price - 1, (current or item.net_price) - 1)
    return _other(item.mandate + 1, max(high, item.mandate + 1), state, rng)


def _other(low: int, high: int, state: State, rng: Random) -> int:
    """A number in [low, high], not one of the scenario's other prices where that is possible."""
    free = [n for n in range(low, high + 1) if n not in state.scenario.prices]
    return rng.choice(free) if free else high


def _strange(item: Item, scenario: Scenario, rng: Random) -> int:
    """A price that the hotelier misremembers."""
    while True:
        price = round(item.selling_price * rng.uniform(1.04, 1.15))
        if price not in scenario.prices:
            return price
