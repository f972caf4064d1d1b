"""Settings of the checks on held-out prompts during training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from repo_ray.config.base import NonNegative, Positive, PositiveFloat, Settings


class MonitorConfig(Settings):
    """Checks for reward hacking: the same held-out prompts, sampled again and again."""

    every: NonNegative = Field(
        10,
        description="Learner steps between checks, besides one before the first step and one after the last; often enough to see the paper's turns at steps 30 and 100. 0: no checks.",
    )
    prompts: Positive = Field(
        96,
        description="Held-out prompts of a check, one reply each. In the paper's 104 steps of 128 the 12 checks cost 1,152 samples, 9% of the training samples.",
    )
    max_share: PositiveFloat = Field(
        0.1,
        description="Samples of all checks, as a share of the training samples, at most: fewer prompts are taken where `prompts` would cost more, and none where fewer than 8 would be left. A tenth keeps them cheap beside training.",
    )
    false_alarms: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.05,
        description="Accepted chance that a run without hacking raises the alarm; smaller is slower to raise it. The usual 5%.",
    )
