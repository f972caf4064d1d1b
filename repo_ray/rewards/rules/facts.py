"""The facts of a negotiation that rules check a reply against."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repo_ray.records import Prompt
from repo_ray.rewards.rules.text import words


@dataclass(frozen=True, slots=True)
class Item:
    """One ticket: a room type whose net price is negotiated. Prices per night; None if unknown.

    `names` are the ways to name it: its id, its room type, and the words of the room type that
    no other item has ("the King").
    """

    ticket: str
    names: tuple[str, ...]
    selling_price: float | None
    net_price: float | None
    competitor_price: float | None
    target_price: float | None
    mandate: float | None
    quote: float | None
    agreed: bool

    def named_in(self, text: str) -> bool:
        """Whether `text` names this ticket or its room type."""
        return any(pattern.search(text) for pattern in self._patterns())

    def named_at(self, text: str, position: int) -> bool:
        """Whether `text` names it just there."""
        return any(pattern.match(text, position) for pattern in self._patterns())

    def _patterns(self) -> list[re.Pattern[str]]:
        return [re.compile(rf"(?<!\w){re.escape(n)}(?!\w)", re.IGNORECASE) for n in self.names]

    def in_range(self, price: float) -> bool:
        """Whether a price lies between target and mandate."""
        if self.target_price is None or self.mandate is None:
            return False
        return self.target_price <= price <= self.mandate

    @property
    def amounts(self) -> set[float]:
        return self.net_amounts | self.selling_amounts

    @property
    def net_amounts(self) -> set[float]:
        """Known amounts that a hotel is or would be paid."""
        return _known(self.net_price, self.target_price, self.mandate, self.quote)

    @property
    def selling_amounts(self) -> set[float]:
        """Known amounts that guests pay, here or elsewhere."""
        return _known(self.selling_price, self.competitor_price)

    @property
    def quote_at_target(self) -> bool:
        """Whether an open quote is at or below target, so that it must be accepted at once."""
        return (
            not self.agreed
            and self.quote is not None
            and self.target_price is not None
            and self.quote <= self.target_price
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything known in one negotiation."""

    stage: str
    items: tuple[Item, ...]

    @property
    def open_items(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if not item.agreed)

    def meant_by(self, sentence: str) -> tuple[Item, ...]:
        """The items a sentence is about: those it names, else every open one, else all."""
        named = tuple(item for item in self.items if item.named_in(sentence))
        return named or self.open_items or self.items


def facts(prompt: Prompt) -> Facts | None:
    """The negotiation facts in the prompt's context; None where it has no priced items.

    Rules that need facts then stay quiet: other people's data need not have them.
    """
    items = prompt.context.get("items")
    if not isinstance(items, list | tuple):
        return None
    quotes = prompt.context.get("quotes")
    agreed = prompt.context.get("agreed")
    quotes = quotes if isinstance(quotes, Mapping) else {}
    agreed = agreed if isinstance(agreed, list | tuple) else ()
    items = [i for i in items if isinstance(i, Mapping)]
    rooms = [str(i.get("room", "")) for i in items]
    counts = Counter(w for room in rooms for w in set(words(room)))
    shared = {w for w, n in counts.items() if n > 1} | {"room"}
    shared |= set(words(str(prompt.context.get("hotel", ""))))
    parsed = tuple(_item(i, quotes, agreed, shared) for i in items)
    parsed = tuple(i for i in parsed if i.net_amounts or i.selling_amounts)
    return Facts(str(prompt.context.get("stage", "")), parsed) if parsed else None


def _item(
    item: Mapping[str, Any], quotes: Mapping[str, Any], agreed: Any, shared: set[str]
) -> Item:
    ticket, room = str(item.get("ticket", "")), str(item.get("room", ""))
    own_words = (w for w in words(room) if w not in shared and len(w) > 2)
    return Item(
        ticket=ticket,
        names=tuple(filter(None, (ticket, room, *own_words))),
        selling_price=_price(item.get("selling_price")),
        net_price=_price(item.get("net_price")),
        competitor_price=_price(item.get("competitor_price")),
        target_price=_price(item.get("target_price")),
        mandate=_price(item.get("mandate")),
        quote=_price(quotes.get(ticket)),
        agreed=ticket in agreed,
    )


def _price(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _known(*prices: float | None) -> set[float]:
    return {price for price in prices if price is not None}
