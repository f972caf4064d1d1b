"""Scenes of `gold_replies/*.yaml`: contexts as the data builder writes them, with replies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repo_ray.evaluation.gold import GoldVerdict, judge_reply
from repo_ray.records import Message

FOLDER = Path(__file__).parent / "gold_replies"
FIELDS = (
    "ticket",
    "room",
    "selling_price",
    "net_price",
    "competitor_price",
    "target_price",
    "mandate",
)


@dataclass(frozen=True)
class Batch:
    """One scene: honest replies, and by kind of trick those that were written to fool."""

    name: str
    messages: tuple[Message, ...]
    context: dict[str, Any]
    hidden: dict[str, Any]
    honest: tuple[str, ...]
    fooling: dict[str, tuple[str, ...]]

    def judge(self, reply: str) -> GoldVerdict:
        return judge_reply(self.messages, self.context, self.hidden, reply)


def load(file: str) -> list[Batch]:
    return [_batch(raw) for raw in yaml.safe_load((FOLDER / file).read_text())]


def _batch(raw: dict[str, Any]) -> Batch:
    context = {
        "city": "Suzhou",
        "hotel": "Maple Court",
        "hotel_type": raw["hotel_type"],
        "check_in": raw["check_in"],
        "currency": "yuan",
        "stage": raw["stage"],
        "items": [dict(zip(FIELDS, item, strict=True)) for item in raw["items"]],
        "quotes": raw.get("quotes", {}),
        "agreed": raw.get("agreed", []),
    }
    roles = ["user", "assistant"] * len(raw["talk"])
    talk = [Message(r, t) for t, r in zip(reversed(raw["talk"]), roles, strict=False)]
    return Batch(
        raw["name"],
        (Message("system", _facts(context)), *reversed(talk)),
        context,
        raw["hidden"],
        tuple(raw["honest"]),
        {kind: tuple(replies) for kind, replies in raw["fooling"].items()},
    )


def _facts(context: dict[str, Any]) -> str:
    """The facts in words, in the manner of the data builder's system message."""
    lines = [
        f"You negotiate net room prices for a travel platform with {context['hotel']}, "
        f"{context['hotel_type']}, {context['city']}, check-in {context['check_in']}. "
        f"Stage: {context['stage']}. Target and max are secret."
    ]
    for item in context["items"]:
        line = (
            f"{item['ticket']} {item['room']}: sells {item['selling_price']}, "
            f"elsewhere {item['competitor_price']}, net {item['net_price']}, "
            f"target {item['target_price']}, max {item['mandate']}"
        )
        if item["ticket"] in context["quotes"]:
            line += f", quote {context['quotes'][item['ticket']]}"
        lines.append(line)
    return "\n".join(lines)
