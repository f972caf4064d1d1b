"""Seeded scenarios: a hotel, its tickets with prices, and who answers for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

CITIES = (
    "Hangzhou", "Chengdu", "Xiamen", "Qingdao", "Suzhou", "Kunming", "Nanjing", "Sanya", "Dalian",
    "Guilin", "Wuhan", "Changsha", "Harbin", "Lijiang", "Ningbo", "Zhuhai", "Jinan", "Fuzhou",
)  # fmt: skip
_FIRST = (
    "Willow", "Harbour", "Jade", "Maple", "River", "Cloud", "Lantern", "Garden", "Cedar", "Lotus",
    "Stone", "Amber", "Bamboo", "Crane", "Misty", "Orchid", "Pearl", "Sunny", "Silver", "Old Mill",
)  # fmt: skip
_SECOND = (
    "Court", "Bridge", "Gate", "Lake", "Square", "Terrace", "Hill", "Corner", "Bay", "Lane", "View",
    "Park", "Tower", "Yard", "Field",
)  # fmt: skip
#: Hotel type -> (lowest, highest selling price of the plainest room in yuan, last part of names).
HOTEL_TYPES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "business": (260, 620, ("Business Hotel", "Hotel", "Plaza")),
    "resort": (480, 1100, ("Resort", "Resort & Spa", "Beach Resort")),
    "homestay": (160, 380, ("Homestay", "Guesthouse", "House")),
    "airport": (220, 460, ("Airport Hotel", "Airport Inn", "Transit Hotel")),
    "conference": (380, 820, ("Conference Hotel", "Convention Hotel", "Congress Hotel")),
    "boutique": (320, 760, ("Boutique Hotel", "Residence", "Design Hotel")),
    "hostel": (90, 210, ("Hostel", "Youth Hostel", "Backpackers")),
}
#: Room type -> price relative to the plainest room.
ROOMS: dict[str, float] = {
    "Standard Twin": 1.0, "Standard Double": 1.02, "Superior Queen": 1.14, "Deluxe King": 1.25,
    "Garden Room": 1.18, "Corner Studio": 1.32, "Family Triple": 1.42, "Executive Suite": 1.9,
}  # fmt: skip
PERSONAS = ("friendly", "matter_of_fact", "impatient", "suspicious", "proud", "weary")
INTENTS = ("cooperative", "bargaining", "resistant", "unreachable")


@dataclass(frozen=True, slots=True)
class Item:
    """One ticket. All prices are whole yuan per night and pairwise different in a scenario:
    target < mandate < net < competitor < selling."""

    ticket: str
    room: str
    selling_price: int
    net_price: int
    competitor_price: int
    target_price: int
    mandate: int

    @property
    def prices(self) -> tuple[int, int, int, int, int]:
        return (
            self.selling_price,
            self.net_price,
            self.competitor_price,
            self.target_price,
            self.mandate,
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A negotiation before its first word. The last four fields are hidden from the agent."""

    city: str
    hotel: str
    hotel_type: str
    check_in: str
    items: tuple[Item, ...]
    persona: str
    intent: str
    patience: int
    reservation_price: dict[str, int]

    @property
    def prices(self) -> frozenset[int]:
        return frozenset(p for item in self.items for p in item.prices)


def generate_scenario(rng: Random, tickets: int | None = None) -> Scenario:
    """A scenario drawn from `rng`, with `tickets` items (1 to 3; drawn when None)."""
    hotel_type = rng.choice(sorted(HOTEL_TYPES))
    low, high, names = HOTEL_TYPES[hotel_type]
    count = tickets or rng.choices((1, 2, 3), (62, 32, 6))[0]
    base = rng.randint(low, high)
    taken: set[int] = set()
    items = tuple(
        _item(rng, f"T{number}", room, base, taken)
        for number, room in enumerate(rng.sample(sorted(ROOMS), count), start=1)
    )
    intent = rng.choice(INTENTS)
    return Scenario(
        city=rng.choice(CITIES),
        hotel=f"{rng.choice(_FIRST)} {rng.choice(_SECOND)} {rng.choice(names)}",
        hotel_type=hotel_type,
        check_in=(date(2026, 1, 5) + timedelta(days=rng.randrange(360))).isoformat(),
        items=items,
        persona=rng.choice(PERSONAS),
        intent=intent,
        patience=rng.randint(2, 8),
        reservation_price={item.ticket: _reservation(rng, item, intent) for item in items},
    )


def _item(rng: Random, ticket: str, room: str, base: int, taken: set[int]) -> Item:
    while True:
        selling = round(base * ROOMS[room] * rng.uniform(0.94, 1.06))
        competitor = round(selling * rng.uniform(0.91, 0.965))
        net = round(selling * rng.uniform(0.84, 0.895))
        target = round(net * rng.uniform(0.87, 0.93))
        mandate = round(target + (net - target) * rng.uniform(0.3, 0.6))
        item = Item(ticket, room, selling, net, competitor, target, mandate)
        prices = item.prices
        gaps_ok = mandate - target >= 3 and net - mandate >= 3 and competitor - net >= 2
        if gaps_ok and len(set(prices)) == 5 and not taken.intersection(prices):
            taken.update(prices)
            return item


def _reservation(rng: Random, item: Item, intent: str) -> int:
    """The lowest net price that the hotelier would take."""
    low, high = {
        "cooperative": (0.93, 0.99),
        "bargaining": (0.97, 1.03),
        "resistant": (1.01, 1.08),
        "unreachable": (1.05, 1.12),
    }[intent]
    return min(round(item.target_price * rng.uniform(low, high)), item.net_price)
