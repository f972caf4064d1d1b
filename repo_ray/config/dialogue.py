"""Whole dialogues: how they are trained on, and the simulated hotelier who answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from repo_ray.config.base import NonNegative, Positive, PositiveFloat, Settings, check_url


class HotelierConfig(Settings):
    """The simulated hotelier."""

    kind: Literal["rules", "endpoint"] = Field(
        "rules",
        description="`rules`: seeded and free; `endpoint`: played by a model behind any OpenAI-compatible server.",
    )
    base_url: str = Field(
        "", description="Endpoint URL, for example http://hotelier:8000/v1; none is assumed."
    )
    model: str = Field("", description="Model name at the endpoint; none is assumed.")
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key, by the name that OpenAI's clients use; the key itself never enters a config.",
    )
    request_timeout_s: PositiveFloat = Field(
        60.0,
        description="Limit of one endpoint request; a line of dialogue takes seconds, a loaded server several times that.",
    )
    max_retries: NonNegative = Field(
        3,
        description="Retries of a request, and of an answer that breaks the hotelier's own price limits; after four failures waiting longer rarely helps.",
    )

    @model_validator(mode="after")
    def _endpoint(self) -> HotelierConfig:
        if self.kind == "endpoint" and not (self.base_url and self.model):
            raise ValueError(
                "hotelier.kind is endpoint: hotelier.base_url and hotelier.model must be set"
            )
        if self.base_url:
            check_url("hotelier.base_url", self.base_url, "http://hotelier:8000/v1")
        if self.kind == "rules" and (self.base_url or self.model):
            raise ValueError(
                "hotelier.base_url and hotelier.model have no effect when hotelier.kind is rules"
            )
        return self


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
