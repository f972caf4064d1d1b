"""The hotelier's decisions in words, from the phrase banks."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from repo_ray.negotiation.grammar import Split, colloquial, draw
from repo_ray.negotiation.situations import State


def speak(
    act: str | None,
    remark: str | None,
    offers: Mapping[str, int],
    state: State,
    split: Split,
    rng: Random,
) -> tuple[str, frozenset[str]]:
    """A message of `remark` (kind in remarks.yaml), `act` (kind in hotelier.yaml) or both, and
    the template families that it came from. `offers` are the prices that the act names."""
    room = (state.open_items or state.scenario.items)[0]
    slots = {
        "quotes": _priced(offers, state, rng),
        "room": room.room,
        "city": state.scenario.city,
        "strange": str(_misremembered(state, rng)),
    }
    texts, families = [], frozenset[str]()
    if remark is not None:
        draft = draw("remarks", remark, split, rng, slots)
        texts.append(draft.text)
        families |= draft.families
    if act is not None:
        draft = draw("hotelier", act, split, rng, slots)
        texts.append(colloquial(draft.text, rng))
        families |= draft.families
    return " ".join(texts), families


def _priced(offers: Mapping[str, int], state: State, rng: Random) -> str:
    several = len(state.scenario.items) > 1
    words = []
    for item in state.scenario.items:
        if item.ticket in offers:
            tail = f" for the {item.room}" if several else rng.choice(("", "", " net"))
            words.append(f"{offers[item.ticket]}{tail}")
    return " and ".join(words)


def _misremembered(state: State, rng: Random) -> int:
    """A selling price that is none of the scenario's."""
    item = (state.open_items or state.scenario.items)[0]
    first = round(item.selling_price * rng.uniform(1.04, 1.15))
    return next(p for p in range(first, first + 100) if p not in state.scenario.prices)
