"""One negotiation in which a person plays the hotelier.

The facts that the agent knows come from a generated scenario. Quotes are read from the person's
messages and the stage follows by a few plain rules; a person can set the stage by hand.
"""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from repo_ray.negotiation.dialogue import context_of, system_message
from repo_ray.negotiation.scenarios import Item, generate_scenario
from repo_ray.negotiation.situations import State, settle
from repo_ray.negotiation.sop import Stage
from repo_ray.records import Message, Prompt

#: A situation of each stage: facts and system message depend on its stage alone.
_SITUATION = {
    Stage.IDENTIFY: "greet",
    Stage.PRESENT_EVIDENCE: "ready",
    Stage.ASK: "interest",
    Stage.HANDLE_OBJECTION: "quote_high",
    Stage.CONFIRM: "hold",
    Stage.CLOSE: "settled",
    Stage.ESCALATE: "refuse",
}
_OPENING = (Stage.IDENTIFY, Stage.PRESENT_EVIDENCE, Stage.ASK)
_NUMBER = re.compile(r"(?<![\d.])\d{2,5}(?![\d.]*\d)")
#: Shares of a ticket's net price between which a number is taken for a quote.
_PLAUSIBLE = (0.6, 1.4)


class Desk:
    """The state of one conversation, and the prompt that the agent sees."""

    def __init__(self, seed: int, exchanges: int = 2) -> None:
        """`exchanges`: earlier exchanges that the agent sees, as in the training data."""
        self._state = State(generate_scenario(Random(seed)), "greet")
        self._exchanges = exchanges
        self._before = self._state
        self._chat: list[Message] = []

    @property
    def stage(self) -> Stage:
        return self._state.spec.stage

    def facts(self) -> str:
        """What the agent knows, as the system message says it."""
        return system_message(self._state).content

    def hear(self, text: str) -> None:
        """The hotelier says `text`: quotes and stage move on."""
        turn = len(self._chat) // 2
        self._chat.append(Message("user", text))
        quotes = {**self._state.quotes, **self._quotes(text)}
        state = replace(self._state, quotes=quotes)
        again = {t for t, q in quotes.items() if self._state.quotes.get(t) == q}
        acceptable = [
            item
            for item in state.open_items
            if item.ticket in quotes
            and (
                quotes[item.ticket] <= item.target_price
                or (item.ticket in again and quotes[item.ticket] <= item.mandate)
            )
        ]
        if not state.open_items:
            stage = Stage.CLOSE
        elif acceptable:
            stage = Stage.CONFIRM
        elif quotes or turn >= len(_OPENING):
            stage = Stage.HANDLE_OBJECTION
        else:
            stage = _OPENING[turn]
        self._state = replace(state, situation=_SITUATION[stage])

    def set_stage(self, name: str) -> None:
        """Raises ValueError for an unknown stage."""
        self._state = replace(self._state, situation=_SITUATION[Stage(name)])

    def prompt(self) -> Prompt:
        """What the agent answers to."""
        recent = self._chat[-(2 * self._exchanges + 1) :]
        return Prompt("chat", (system_message(self._state), *recent), context_of(self._state))

    def answer(self, text: str) -> None:
        """The agent said `text`; what was to be confirmed counts as agreed."""
        self._before = self._state
        self._chat.append(Message("assistant", text))
        if self.stage is Stage.CONFIRM:
            self._state = settle(self._state)

    def take_back(self) -> None:
        """Forgets the agent's last line, so that another model can answer the same message."""
        if self._chat and self._chat[-1].role == "assistant":
            self._chat.pop()
            self._state = self._before

    def _quotes(self, text: str) -> dict[str, int]:
        """A price for each ticket that is named, or for the only open one."""
        found: dict[str, int] = {}
        for match in _NUMBER.finditer(text):
            item = self._meant(text[: match.end() + 20])
            number = int(match.group())
            low, high = (share * item.net_price for share in _PLAUSIBLE) if item else (1, 0)
            if item is not None and low <= number <= high:
                found[item.ticket] = number
        return found

    def _meant(self, text: str) -> Item | None:
        """The ticket that is named last in `text`, or the first open one."""
        lowered = text.lower()
        named = [
            (max(lowered.rfind(i.ticket.lower()), lowered.rfind(i.room.lower())), i)
            for i in self._state.scenario.items
        ]
        position, item = max(named, key=lambda entry: entry[0])
        if position >= 0:
            return item
        return next(iter(self._state.open_items), None)
