"""What passes between an episode and its hotelier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from repo_ray.negotiation.grammar import Split
from repo_ray.negotiation.hotelier.hearing import Heard
from repo_ray.negotiation.hotelier.mind import Mind
from repo_ray.negotiation.scenarios import Item
from repo_ray.negotiation.situations import State
from repo_ray.records import Message


class HotelierError(RuntimeError):
    """The hotelier could not answer. `cause` is one word for counting: `timeout`,
    `rate_limited`, `server_error`, `connection`, `rejected`, `refused` or `malformed`."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(f"{cause}: {message}")
        self.cause = cause


@dataclass(frozen=True, slots=True)
class View:
    """What the hotelier knows when it answers.

    `state` already counts the tickets that the reply settled; `mind` what the reply did to it;
    `chat` ends with the reply. `rng` depends on seed and turn alone.
    """

    state: State
    mind: Mind
    heard: Heard
    chat: Sequence[Message]
    split: Split
    rng: Random


@dataclass(frozen=True, slots=True)
class Move:
    """The hotelier's message, the situation it puts the agent in, and the prices it offers now."""

    situation: str
    text: str
    mind: Mind
    offers: Mapping[str, int] = field(default_factory=dict)
    leaves: bool = False
    families: frozenset[str] = frozenset()


class Hotelier(Protocol):
    """Answers the agent. One object serves any number of episodes at the same time."""

    async def answer(self, view: View) -> Move:
        """Raises `HotelierError` when it cannot."""
        ...


def price_range(item: Item, state: State) -> tuple[int, int]:
    """Lowest and highest price that may be offered for an open ticket."""
    high = min(state.quotes.get(item.ticket, item.net_price), item.net_price)
    return state.scenario.reservation_price[item.ticket], high


def situation_of(offers: Mapping[str, int], asks: Mapping[str, int | None], state: State) -> str:
    """The situation after these offers, which are the newest ones for open tickets."""
    quotes = {**state.quotes, **offers}
    standing = [(i, quotes[i.ticket]) for i in state.open_items if i.ticket in quotes]
    within = all(price <= i.mandate for i, price in standing)
    granted = all((asks.get(i.ticket) or 0) >= price for i, price in standing)
    if within and granted and len(standing) == len(state.open_items):
        return "agree"
    if any(price <= i.target_price for i, price in standing):
        return "quote_low"
    return "quote_middle" if within and standing else "quote_high"


def last_word_of(offers: Mapping[str, int], state: State) -> str:
    """The situation after offers that are the hotelier's last word."""
    quotes = {**state.quotes, **offers}
    standing = [(i, quotes[i.ticket]) for i in state.open_items if i.ticket in quotes]
    if all(price <= i.target_price for i, price in standing):
        return "quote_low"
    within = all(price <= i.mandate for i, price in standing)
    return "hold" if within else situation_of(offers, {}, state)
