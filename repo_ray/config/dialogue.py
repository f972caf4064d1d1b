"""Whole dialogues: how they are trained on, and the simulated hotelier who answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repo_ray.config.base import Positive, Settings


class HotelierConfig(Settings):
    """The simulated hotelier."""


class DialogueConfig(Settings):
    """Training on whole dialogues with the simulated hotelier instead of single replies."""

    max_turns: Positive = Field(
        8,
        description="Agent turns of one dialogue at most (the paper's evaluation dialogues have about 5).",
    )
    reward: Literal["turn", "end"] = Field(
        "turn",
        description="`turn`: each reply's reward on its own last token, so that credit stays where it was earned; `end`: the mean of the turns' rewards on the dialogue's last token. Neither adds a bonus for the outcome: the paper's reward has three sources.",
    )
    hotelier: HotelierConfig = HotelierConfig()
