"""A small episode, a chat format of one token per character, and a pool that samples from a list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repo_ray.records import Message, Prompt, Rollout

#: Control tokens, beyond every character.
START, END = 2_000_000, 2_000_001


def encode(prompt: Prompt) -> list[int]:
    """ChatML, with a character's code as its id."""
    ids: list[int] = []
    for message in prompt.messages:
        ids += [START, *map(ord, f"{message.role}\n{message.content}"), END, ord("\n")]
    return [*ids, START, *map(ord, "assistant\n")]


def between(answer: str) -> list[int]:
    """What follows a reply that ended its turn itself."""
    return [10, START, *map(ord, f"user\n{answer}"), END, 10, START, *map(ord, "assistant\n")]


def ids_of(reply: str, ended: bool = True) -> tuple[int, ...]:
    return (*map(ord, reply), *([END] if ended else []))


@dataclass
class FakeEpisode:
    """Answers from a list; over after the last answer. `facts` are those of each turn, the last
    ones of all later turns."""

    answers: Sequence[str]
    prompt_id: str = "episode-7"
    facts: Sequence[str] = ("Sell.",)
    secret: bool = False  # whether hidden truth and outcome may be read

    def __post_init__(self) -> None:
        self.chat: tuple[Message, ...] = (Message("user", "Hello?"),)
        self.replies: list[str] = []

    def prompt(self) -> Prompt:
        turn = len(self.replies)
        facts = Message("system", self.facts[min(turn, len(self.facts) - 1)])
        return Prompt(self.prompt_id, (facts, *self.chat), {"turn": turn})

    def hidden(self) -> dict[str, Any]:
        assert self.secret, "training has read the hidden truth"
        return {"reservation": 300 - len(self.replies)}

    async def answer(self, reply: str) -> bool:
        await asyncio.sleep(0)
        answer = self.answers[len(self.replies)]
        self.replies.append(reply)
        self.chat = (*self.chat, Message("assistant", reply), Message("user", answer))
        return len(self.replies) == len(self.answers)

    def outcome(self) -> dict[str, Any]:
        assert self.secret, "training has read the outcome"
        return {"turns": len(self.replies)}


def rollout_of(
    sample_id: str,
    prompt_id: str,
    attempt: int,
    prompt_token_ids: Sequence[int],
    reply: str,
    *,
    ended: bool = True,
    version: int = 0,
    engine: str = "rollout-0",
) -> Rollout:
    """A reply of one token per character; log-probs -1, -2, -3, ..."""
    ids = ids_of(reply, ended)
    return Rollout(
        sample_id,
        prompt_id,
        attempt,
        tuple(prompt_token_ids),
        ids,
        (True,) * len(ids),
        tuple(-1.0 - i for i in range(len(ids))),
        (version,) * len(ids),
        "stop" if ended else "length",
        reply,
        engine,
        0.5,
    )
