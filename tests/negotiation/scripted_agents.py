"""Agents for the simulated hotelier: good ones, bad ones and cheats. Each sees what a policy sees
(the state behind the prompt), never the hidden truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from repo_ray.config.dialogue import HotelierConfig
from repo_ray.negotiation.episodes import Episode, open_episode
from repo_ray.negotiation.grammar import Split, bank, draw
from repo_ray.negotiation.replies import Style, compose, good_reply, sentences
from repo_ray.negotiation.situations import State

#: What to say in a state; `said` are the agent's own earlier sentences.
Agent = Callable[[State, Random, frozenset[str]], str]

_ASKS = ("ask", "check_in", "evidence", "introduce")


def play(agent: Agent, seed: int, split: Split = "train", max_turns: int = 8) -> Episode:
    """The whole dialogue with the hotelier by rule."""
    episode = open_episode(seed, split, HotelierConfig(), max_turns)
    rng = Random(f"agent {seed}")
    said: frozenset[str] = frozenset()
    while not episode.over:
        reply = agent(episode.state, rng, said)
        said |= sentences(reply)
        asyncio.run(episode.answer(reply))
    return episode


def good(state: State, rng: Random, said: frozenset[str]) -> str:
    return good_reply(state, "train", rng, said).text


def terse(state: State, rng: Random, said: frozenset[str]) -> str:
    """The right action, without a reason or a kind word."""
    return compose(state, state.spec.actions[0], Style(False, False), "train", rng).text


def pushy(state: State, rng: Random, said: frozenset[str]) -> str:
    action = state.spec.actions[0]
    style = Style(False, False, pressure=action in _ASKS)
    return compose(state, "ask" if action in _ASKS else action, style, "train", rng).text


def promising(state: State, rng: Random, said: frozenset[str]) -> str:
    action = state.spec.actions[0]
    return compose(state, action, Style(promise=action in ("ask", "check_in")), "train", rng).text


def misinformed(state: State, rng: Random, said: frozenset[str]) -> str:
    """Good, but for a competitor's price that is not true."""
    reply = good_reply(state, "train", rng, said)
    if reply.action not in _ASKS:
        return reply.text
    item = (state.open_items or state.scenario.items)[0]
    return f"{reply.text} The {item.room} is {round(0.85 * item.competitor_price)} elsewhere."


def evidence_only(state: State, rng: Random, said: frozenset[str]) -> str:
    return compose(state, "evidence", Style(False), "train", rng).text


def flattering(state: State, rng: Random, said: frozenset[str]) -> str:
    praise = rng.choice(
        (
            "Your hotel is wonderful, fantastic and beautiful.",
            "You have an amazing team and the best rooms, truly outstanding.",
            "What a superb, magnificent house you run, brilliant work.",
        )
    )
    item = (state.open_items or state.scenario.items)[0]
    return f"{praise} Could you do {item.target_price} for the {item.room}?"


def empty(state: State, rng: Random, said: frozenset[str]) -> str:
    return ""


def same_again(state: State, rng: Random, said: frozenset[str]) -> str:
    """One good reply, over and over."""
    asks = " and ".join(f"{i.target_price} for the {i.room}" for i in state.scenario.items)
    return (
        "I understand that costs weigh on you. Guests compare, and lower prices bring more "
        f"bookings. Could you bring the net price to {asks}?"
    )


_WORDS = sorted(
    {
        word
        for name in ("replies", "hotelier")
        for splits in bank(name).values()
        for family in splits["train"].values()
        for template in family
        for word in template.replace("[", " ").replace("]", " ").replace("|", " ").split()
        if "{" not in word and "}" not in word
    }
)


def babbling(state: State, rng: Random, said: frozenset[str]) -> str:
    """A hundred words that the good agent and the hotelier use, in any order."""
    return " ".join(rng.choice(_WORDS) for _ in range(100))


def shuffled(state: State, rng: Random, said: frozenset[str]) -> str:
    """The good agent's words in any order."""
    words = good_reply(state, "train", rng, said).text.split()
    rng.shuffle(words)
    return " ".join(words)


def listing(state: State, rng: Random, said: frozenset[str]) -> str:
    """Every keyword there is, true figures included."""
    item = (state.open_items or state.scenario.items)[0]
    return (
        "Understand costs, margin, commission, demand, season, doubt, busy, sorry, no rush. "
        f"{item.room}: {item.selling_price} with us, {item.competitor_price} elsewhere, exposure, "
        "ranking, bookings, views. Business travellers, holiday guests, backpackers, delegates. "
        f"Net price {item.target_price}, please, thank you."
    )


def everything(state: State, rng: Random, said: frozenset[str]) -> str:
    """Every kind of sentence that a good agent has, in good grammar, in every reply."""
    acks = " ".join(
        draw("replies", f"ack.{kind}", "train", rng).text
        for kind in ("cost", "commission", "demand", "doubt", "busy", "angry", "silence")
    )
    kind = state.scenario.hotel_type
    reasons = " ".join(draw("replies", f"reason.{k}", "train", rng).text for k in (kind, "soft"))
    items = state.open_items or state.scenario.items
    gaps = " and ".join(
        f"the {i.room} is {i.selling_price} with us and {i.competitor_price} elsewhere"
        for i in items
    )
    asks = " and ".join(f"{i.target_price} for the {i.room}" for i in items)
    return f"Could you set the net price to {asks}? Today {gaps}. {reasons} {acks}"
