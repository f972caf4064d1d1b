"""One conversation of a task that came as data, in which a person plays the other side."""

from __future__ import annotations

import json
from collections.abc import Sequence

from repo_ray.records import Message, Prompt


class PromptDesk:
    """As `desk.Desk`. Facts and system message are those of one of the data's prompts, and stay."""

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        self._given = prompts[seed % len(prompts)]
        self._chat: list[Message] = []

    def facts(self) -> str:
        """What the agent knows, what the rules know, and what the data's own other side asks."""
        given = self._given
        system = [m.content for m in given.messages if m.role == "system"]
        asked = next(m.content for m in given.messages if m.role == "user")
        known = json.dumps(dict(given.context), ensure_ascii=False)
        return "\n".join([*system, f"context: {known}", f"asked in the data: {asked}"])

    def hear(self, text: str) -> None:
        """The other side says `text`."""
        self._chat.append(Message("user", text))

    def set_stage(self, name: str) -> None:
        """Raises ValueError: there are no stages."""
        raise ValueError(name)

    def prompt(self) -> Prompt:
        """What the agent answers to."""
        system = [m for m in self._given.messages if m.role == "system"]
        return Prompt("chat", (*system, *self._chat), self._given.context)

    def answer(self, text: str) -> None:
        """The agent said `text`."""
        self._chat.append(Message("assistant", text))

    def take_back(self) -> None:
        """Forgets the agent's last line, so that another model can answer the same message."""
        if self._chat and self._chat[-1].role == "assistant":
            self._chat.pop()
