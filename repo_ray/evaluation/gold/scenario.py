"""The facts of one scenario, read from the `context` and `hidden` JSON of a data row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """One ticket: a room type and its prices in yuan per night; None where the data has none."""

    ticket: str
    room: str
    selling: int | None
    net: int | None
    competitor: int | None
    target: int | None
    mandate: int | None
    quote: int | None
    agreed: bool
    reservation: int | None

    @property
    def facts(self) -> frozenset[int]:
        """Amounts that may be stated as facts; target and mandate are internal."""
        known = (self.selling, self.net, self.competitor, self.quote)
        return frozenset(v for v in known if v is not None)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the gold evaluator knows of the negotiation at this turn."""

    items: tuple[Item, ...] = ()
    stage: str = ""
    hotel: str = ""
    hotel_type: str = ""
    check_in: date | None = None
    patience: int | None = None
    consents: bool | None = None
    room_words: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def pending(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if not item.agreed)

    def item(self, ticket: str) -> Item:
        return next(item for item in self.items if item.ticket == ticket)


def read_scenario(context: Mapping[str, Any], hidden: Mapping[str, Any]) -> Scenario:
    """Reads what is there; a missing or malformed field leaves its checks out.

    User data may carry any context, so nothing here raises. An item without a price between hotel
    and platform is another task's, not a ticket of this one.
    """
    quotes, reservation = _mapping(context.get("quotes")), _mapping(hidden.get("reservation_price"))
    agreed = {str(t) for t in _sequence(context.get("agreed"))}
    items = []
    for number, raw in enumerate(_sequence(context.get("items")), start=1):
        if not isinstance(raw, Mapping):
            continue
        prices = (raw.get(name) for name in ("net_price", "target_price", "mandate"))
        if all(_amount(price) is None for price in prices):
            continue
        ticket = str(raw.get("ticket") or f"#{number}")
        items.append(
            Item(
                ticket=ticket,
                room=str(raw.get("room") or ""),
                selling=_amount(raw.get("selling_price")),
                net=_amount(raw.get("net_price")),
                competitor=_amount(raw.get("competitor_price")),
                target=_amount(raw.get("target_price")),
                mandate=_amount(raw.get("mandate")),
                quote=_amount(quotes.get(ticket)),
                agreed=ticket in agreed,
                reservation=_amount(reservation.get(ticket)),
            )
        )
    return Scenario(
        items=tuple(items),
        stage=str(context.get("stage") or ""),
        hotel=str(context.get("hotel") or ""),
        hotel_type=str(context.get("hotel_type") or "").lower(),
        check_in=_date(context.get("check_in")),
        patience=_amount(hidden.get("patience")),
        consents=consents if isinstance(consents := hidden.get("consents"), bool) else None,
        room_words=_distinctive_words(items),
    )


def knows_task(context: Mapping[str, Any]) -> bool:
    """Whether this is a negotiation as the built-in task has them, which alone can be judged."""
    return bool(read_scenario(context, {}).items)


def _distinctive_words(items: Sequence[Item]) -> dict[str, frozenset[str]]:
    """Per ticket, the words of its room name that no other room name has."""
    words = {i.ticket: set(re.findall(r"[a-z]+", i.room.lower())) - {"room"} for i in items}
    return {
        ticket: frozenset(own.difference(*(o for t, o in words.items() if t != ticket)))
        for ticket, own in words.items()
    }


def _amount(value: Any) -> int | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return round(value) if usable and abs(value) < 1e9 else None


def _date(value: Any) -> date | None:
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
