"""Whole negotiations with a simulated hotelier, turn by turn.

An episode asks for a reply to `prompt()`, takes it with `answer`, and has an `outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from repo_ray.config import environment
from repo_ray.config.dialogue import HotelierConfig
from repo_ray.negotiation.dialogue import context_of, system_message
from repo_ray.negotiation.grammar import Split
from repo_ray.negotiation.hotelier.hearing import Heard, hear
from repo_ray.negotiation.hotelier.mind import first_mind, weigh
from repo_ray.negotiation.hotelier.moves import Hotelier, HotelierError, Move, View, price_range
from repo_ray.negotiation.hotelier.rules import RuleHotelier
from repo_ray.negotiation.hotelier.voice import speak
from repo_ray.negotiation.scenarios import Scenario, generate_scenario
from repo_ray.negotiation.situations import FINAL, State
from repo_ray.records import Message, Prompt

Ending = Literal["open", "agreed", "refused", "walked_away", "left", "turns"]

_OPENINGS = ("greet", "greet", "ready", "interest")
#: Weights of trust, remaining patience and kept margin in the hotelier's satisfaction.
_TRUST, _PATIENCE, _MARGIN = 0.4, 0.3, 0.3


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """One ticket, all prices net in yuan. `opening` is the hotelier's price before the dialogue,
    `price` the agreed one, None where nothing was agreed.

    `reduction`: (opening - price) / (opening - reservation), 0 without agreement.
    `margin`: (price - reservation) / price, what the hotel keeps over its lowest price as a share
    of the price; None without agreement.
    """

    ticket: str
    selling: int
    target: int
    mandate: int
    reservation: int
    opening: int
    quote: int | None
    price: int | None

    @property
    def reduction(self) -> float:
        if self.price is None:
            return 0.0
        share = (self.opening - self.price) / (self.opening - self.reservation)
        return min(1.0, max(0.0, share))

    @property
    def margin(self) -> float | None:
        return None if self.price is None else (self.price - self.reservation) / self.price


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a negotiation ended, for both sides; `dataclasses.asdict` makes it JSON.

    `attainable`: every reservation price is within the mandate. `agreed`: every ticket is settled.
    `reduction`: mean of the items'. `margin`: mean over settled items, None if there is none.
    `satisfaction` in [0, 1]: 0.4 trust + 0.3 share of patience left + 0.3 share of the bargaining
    room (opening - reservation) that the hotel keeps, where an unsettled ticket keeps nothing.
    `turns`: replies of the agent. `mandate_violations`: (turn, ticket) pairs at which the agent
    committed to or asked for a net price over its mandate.
    """

    prompt_id: str
    items: tuple[ItemOutcome, ...]
    ending: Ending
    attainable: bool
    agreed: bool
    walked_away: bool
    reduction: float
    margin: float | None
    satisfaction: float
    turns: int
    mandate_violations: int
    persona: str
    intent: str


def open_episode(
    seed: int, split: Split, hotelier: HotelierConfig | Hotelier, max_turns: int = 8
) -> Episode:
    """A negotiation that waits for the agent's first reply.

    Scenario, temper and opening message follow from `seed` and `split`; with the hotelier by rule
    so does everything else, given the agent's replies. After `max_turns` replies it is over.
    Raises ValueError when `max_turns` is below 1.
    """
    if max_turns < 1:
        raise ValueError(f"max_turns must be at least 1, not {max_turns}")
    if isinstance(hotelier, HotelierConfig):
        hotelier = _hotelier(hotelier)
    return Episode(seed, split, hotelier, max_turns)


def _hotelier(config: HotelierConfig) -> Hotelier:
    if config.kind == "rules":
        return RuleHotelier()
    from repo_ray.negotiation.hotelier.endpoint import EndpointHotelier  # openai takes a second

    return EndpointHotelier(config, environment(config.api_key_env))


class Episode:
    """One negotiation. Not to be answered twice at the same time."""

    def __init__(self, seed: int, split: Split, hotelier: Hotelier, max_turns: int) -> None:
        self.prompt_id = f"episode-{seed}"
        self.seed = seed
        self.split = split
        self.max_turns = max_turns
        self._hotelier = hotelier
        rng = self._rng("opening")
        opening = rng.choice(_OPENINGS)
        self.state = State(_scenario(rng), opening)
        self.mind = first_mind(self.state.scenario, opening, rng)
        text, self.families = speak(opening, None, {}, self.state, split, rng)
        self.chat: tuple[Message, ...] = (Message("user", text),)
        self.ending: Ending = "open"
        self.turns = 0
        self._violations = 0

    @property
    def over(self) -> bool:
        return self.ending != "open"

    def prompt(self) -> Prompt:
        """The whole conversation so far, with the facts as they stand now.

        The system message states stage and quotes of this turn, so it differs from turn to turn.
        """
        messages = (system_message(self.state), *self.chat)
        return Prompt(self.prompt_id, messages, context_of(self.state))

    def hidden(self) -> dict[str, Any]:
        """The truth of this turn, with the keys of the data sets' `hidden` column."""
        scenario, spec = self.state.scenario, self.state.spec
        return {
            "reservation_price": dict(scenario.reservation_price),
            "persona": scenario.persona,
            "intent": scenario.intent,
            "patience": self.mind.patience,
            "situation": self.state.situation,
            "feeling": spec.feeling,
            "consents": spec.quote in ("low", "target", "hold") and not self.state.pending_items,
            "actions": list(spec.actions),
        }

    async def answer(self, reply: str) -> bool:
        """Takes the agent's reply and adds the hotelier's answer, if the dialogue goes on or the
        hotelier leaves. True when it is over.

        Raises `HotelierError` when the hotelier cannot answer; the episode is then as it was
        before, and the same reply may be tried again. Raises RuntimeError when it was over.
        """
        if self.over:
            raise RuntimeError(f"{self.prompt_id} is over ({self.ending}): no reply is expected")
        heard = hear(reply, self.state, self.chat)
        outside = _outside_mandate(heard, self.state)
        # The agent's own system does not register a price over its mandate.
        settled = tuple(t for t in heard.takes if t not in outside)
        state = replace(self.state, agreed=self.state.agreed + settled)
        mind = weigh(self.mind, heard, self.state, void=bool(outside))
        turn = self.turns + 1
        chat = (*self.chat, Message("assistant", reply))
        ending = self._ending(heard, state, turn)
        if ending == "open":
            view = View(state, mind, heard, chat, self.split, self._rng(f"turn {turn}"))
            move = await self._hotelier.answer(view)
            _check(move, state)
            quotes = {**state.quotes, **move.offers}
            state = replace(state, situation=move.situation, quotes=quotes)
            mind = move.mind
            chat = (*chat, Message("user", move.text))
            self.families |= move.families
            ending = "walked_away" if move.leaves else "open"
        self.state, self.mind, self.chat = state, mind, chat
        self.ending, self.turns = ending, turn
        self._violations += len(outside)
        return self.over

    def outcome(self) -> Outcome:
        """How it stands now; final once the dialogue is over."""
        scenario = self.state.scenario
        items = tuple(
            ItemOutcome(
                ticket=i.ticket,
                selling=i.selling_price,
                target=i.target_price,
                mandate=i.mandate,
                reservation=scenario.reservation_price[i.ticket],
                opening=i.net_price,
                quote=self.state.quotes.get(i.ticket),
                price=self.state.quotes[i.ticket] if i.ticket in self.state.agreed else None,
            )
            for i in scenario.items
        )
        margins = [i.margin for i in items if i.margin is not None]
        kept = sum(1 - i.reduction for i in items if i.price is not None) / len(items)
        patience = self.mind.patience / self.mind.first_patience
        return Outcome(
            prompt_id=self.prompt_id,
            items=items,
            ending=self.ending,
            attainable=all(i.reservation <= i.mandate for i in items),
            agreed=not self.state.open_items,
            walked_away=self.ending == "walked_away",
            reduction=sum(i.reduction for i in items) / len(items),
            margin=sum(margins) / len(margins) if margins else None,
            satisfaction=_TRUST * self.mind.trust + _PATIENCE * patience + _MARGIN * kept,
            turns=self.turns,
            mandate_violations=self._violations,
            persona=scenario.persona,
            intent=scenario.intent,
        )

    def _ending(self, heard: Heard, state: State, turn: int) -> Ending:
        """How the dialogue ends with the agent's reply, `open` if it does not."""
        if not state.open_items and (turn >= self.max_turns or self.state.situation == "settled"):
            return "agreed"
        if state.open_items and self.state.situation in FINAL:
            return "refused"
        if state.open_items and heard.leaves:
            return "left"
        return "turns" if turn >= self.max_turns else "open"

    def _rng(self, label: str) -> Random:
        return Random(f"{self.split}/{self.seed}/{label}")


def _scenario(rng: Random) -> Scenario:
    """Drawn twice at most: where the first could not be agreed within the mandate, again. So
    about one in five cannot; handing over is right there. On each ticket there is at least one
    yuan to bargain for."""
    scenario = generate_scenario(rng)
    if any(scenario.reservation_price[i.ticket] > i.mandate for i in scenario.items):
        scenario = generate_scenario(rng)
    floors = {
        i.ticket: min(scenario.reservation_price[i.ticket], i.net_price - 1) for i in scenario.items
    }
    return replace(scenario, reservation_price=floors)


def _outside_mandate(heard: Heard, state: State) -> frozenset[str]:
    """Tickets for which the reply commits to, claims or asks a price over the mandate."""
    named: list[tuple[str, int | None]] = [
        *heard.takes.items(),
        *heard.claimed.items(),
        *heard.asks.items(),
    ]
    limits: Mapping[str, int] = {i.ticket: i.mandate for i in state.scenario.items}
    return frozenset(t for t, price in named if price is not None and price > limits[t])


def _check(move: Move, state: State) -> None:
    """What no hotelier may do, whatever the agent said. Raises `HotelierError`."""
    open_items = {i.ticket: i for i in state.open_items}
    for ticket, price in move.offers.items():
        if ticket not in open_items:
            raise HotelierError("malformed", f"an offer for {ticket}, which is not open")
        low, high = price_range(open_items[ticket], state)
        if not low <= price <= high:
            raise HotelierError(
                "malformed", f"an offer of {price} for {ticket}: expected {low} to {high}"
            )
    if not move.text.strip():
        raise HotelierError("malformed", "an empty message")
