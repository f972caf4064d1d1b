"""Dialogues: the hotelier follows a path of situations, the agent answers well."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from repo_ray.negotiation.grammar import Split
from repo_ray.negotiation.replies import Reply, good_reply, sentences
from repo_ray.negotiation.scenarios import Scenario
from repo_ray.negotiation.situations import (
    FINAL,
    OBJECTIONS,
    SILENT,
    SITUATIONS,
    State,
    advance,
    settle,
)
from repo_ray.negotiation.sop import Stage
from repo_ray.records import Message

#: About 300 tokens of a small model's tokenizer, which spends one on every digit.
MAX_PROMPT_CHARS = 840


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent turn: the state, the chat so far (without system message) and a good reply."""

    state: State
    chat: tuple[Message, ...]
    reply: Reply
    families: frozenset[str]
    hidden: dict[str, Any]

    def messages(self, exchanges: int) -> tuple[Message, ...]:
        """System message, the last `exchanges` exchanges and the message to answer.

        Fewer exchanges where the prompt would exceed `MAX_PROMPT_CHARS`.
        """
        system = system_message(self.state)
        for kept in range(exchanges, 0, -1):
            recent = self.chat[-(2 * kept + 1) :]
            if len(system.content) + sum(len(m.content) for m in recent) <= MAX_PROMPT_CHARS:
                return (system, *recent)
        return (system, *self.chat[-1:])


def play(
    scenario: Scenario,
    path: Sequence[str],
    split: Split,
    rng: Random,
    *,
    partial: bool = False,
    last: int | None = None,
) -> list[Turn]:
    """The dialogue along `path` (names of situations). Messages with prices name all open
    tickets unless `partial`; before `settled` they always do. With `last`, only that many turns
    at the end are put into words and returned: what comes before changes the state alone."""
    state = State(scenario, "greet")
    chat: tuple[Message, ...] = ()
    families: frozenset[str] = frozenset()
    said: frozenset[str] = frozenset()
    turns = []
    for step, situation in enumerate(path):
        everything = not partial or "settled" in path[step + 1 :]
        state, draft, text = advance(state, situation, everything, split, rng)
        settles = state.spec.stage is Stage.CONFIRM
        if last is not None and step < len(path) - last:
            state = settle(state) if settles else state
            continue
        chat = (*chat, Message("user", text))
        reply = good_reply(state, split, rng, said)
        said |= sentences(reply.text)
        families |= draft.families
        turns.append(Turn(state, chat, reply, families, _hidden(state)))
        families |= reply.families
        chat = (*chat, Message("assistant", reply.text))
        state = settle(state) if settles else state
    return turns


def path_to(situation: str, rng: Random) -> list[str]:
    """A plausible path that ends in `situation`."""
    if situation == "greet":
        return ["greet"]
    start = ["greet", "ready"]
    if situation == "ready":
        return start
    if situation == "interest":
        return [*start, "interest"]
    middle = ["interest", *_middle(rng, rng.choice((0, 1, 1, 2)))]
    if situation == "settled":
        return [*start, *middle, rng.choice(("agree", "quote_low", "hold")), "settled"]
    if situation == "hold":
        return [*start, *middle, "quote_middle", "hold"]
    return [*start, *middle, situation]


def full_path(rng: Random, length: int) -> list[str]:
    """A whole dialogue of about `length` turns, as hotels really differ: some agree, some do not."""
    end = rng.choice(
        (
            ["quote_high", "agree", "settled"],
            ["quote_low", "settled"],
            ["quote_middle", "hold", "settled"],
            ["quote_high", "quote_high"],
            ["quote_high", rng.choice(FINAL)],
            [rng.choice(SILENT), rng.choice(FINAL)],
            [rng.choice(SILENT), "agree", "settled"],
        )
    )
    start = ["greet", "ready", "interest"][rng.choice((0, 0, 1)) :]
    middle = _middle(rng, max(1, length - len(start) - len(end)))
    return [*start, *middle, *end][-length:]


def context_of(state: State) -> dict[str, Any]:
    """The visible facts, as the rules and the judge read them."""
    scenario = state.scenario
    return {
        "city": scenario.city,
        "hotel": scenario.hotel,
        "hotel_type": scenario.hotel_type,
        "check_in": scenario.check_in,
        "currency": "yuan",
        "stage": state.spec.stage.value,
        "items": [
            {
                "ticket": i.ticket,
                "room": i.room,
                "selling_price": i.selling_price,
                "net_price": i.net_price,
                "competitor_price": i.competitor_price,
                "target_price": i.target_price,
                "mandate": i.mandate,
            }
            for i in scenario.items
        ],
        "quotes": dict(sorted(state.quotes.items())),
        "agreed": sorted(state.agreed),
    }


def system_message(state: State) -> Message:
    """The same facts in words, short, since every token is paid for on a CPU."""
    scenario = state.scenario
    lines = [
        f"You negotiate net room prices for a travel platform with {scenario.hotel}, "
        f"{scenario.hotel_type}, {scenario.city}, check-in {scenario.check_in}. "
        f"Stage: {state.spec.stage.value}. Target and max are secret.",
    ]
    for i in scenario.items:
        line = (
            f"{i.ticket} {i.room}: sells {i.selling_price}, elsewhere {i.competitor_price}, "
            f"net {i.net_price}, target {i.target_price}, max {i.mandate}"
        )
        quote = state.quotes.get(i.ticket)
        if i.ticket in state.agreed:
            line += f", agreed {quote}"
        elif quote is not None:
            line += f", quote {quote}"
        lines.append(line)
    return Message("system", "\n".join(lines))


def to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _middle(rng: Random, count: int) -> list[str]:
    """`count` different turns of bargaining that settle nothing."""
    pool = rng.sample(OBJECTIONS, min(count, len(OBJECTIONS)))
    return [rng.choice(SILENT) if rng.random() < 0.2 else name for name in pool]


def _hidden(state: State) -> dict[str, Any]:
    """What only the gold evaluator may know; the reservation price allows what was said."""
    scenario, spec = state.scenario, SITUATIONS[state.situation]
    return {
        "reservation_price": {
            t: min(price, state.quotes.get(t, price))
            for t, price in scenario.reservation_price.items()
        },
        "persona": scenario.persona,
        "intent": scenario.intent,
        "patience": scenario.patience,
        "situation": state.situation,
        "feeling": spec.feeling,
        "consents": spec.quote in ("low", "target", "hold"),
        "actions": list(spec.actions),
    }
