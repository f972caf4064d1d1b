"""What one row of the comparison is, as a change of the common config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """One way to train the policy from the warm start.

    `trainer` is `rl`, the streaming loop, or the supervised stage of `learner.stages` that
    trains it. `changes` are merged into the common config, section by section. `budget_unit` says
    what the common budget counts for it.
    """

    name: str
    title: str
    trainer: Literal["rl", "sft", "dpo"]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def budget_unit(self) -> str:
        return {"rl": "sampled replies", "sft": "demonstrations", "dpo": "pairs"}[self.trainer]
