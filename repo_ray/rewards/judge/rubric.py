"""The judge's rubric: criteria with points, as declared in YAML."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from repo_ray.records import ScoreDetail
from repo_ray.rewards.declaration import RewardConfigError, read_declaration

BUILT_IN = Path(__file__).with_name("negotiation.yaml")


@dataclass(frozen=True, slots=True)
class Criterion:
    """A statement about the reply, and the points it is worth where it holds."""

    criterion_id: str
    question: str
    points: float


@dataclass(frozen=True, slots=True)
class Rubric:
    """What a judge is asked. `task` tells it in a few sentences what the agent is there for."""

    criteria: tuple[Criterion, ...]
    task: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(c.criterion_id for c in self.criteria)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content: the same for files that differ only in layout."""
        content = [self.task, *((c.criterion_id, c.question, c.points) for c in self.criteria)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def points(
        self, verdicts: Mapping[str, bool | float], reasons: Mapping[str, str] | None = None
    ) -> tuple[float, dict[str, ScoreDetail]]:
        """E_judge and its parts for one verdict per criterion.

        A verdict is true or false, or the likelihood p in [0, 1] that the statement holds: the
        expected points are then p · points. E_judge is their sum, unclipped
        (`enhancement.enhance` clips judge and rules together). Raises `ValueError` for a missing
        or unknown criterion and for a likelihood outside [0, 1].
        """
        reasons = reasons or {}
        if set(verdicts) != set(self.ids):
            wrong = sorted(set(verdicts) ^ set(self.ids))
            raise ValueError(f"verdicts do not match the rubric's criteria: {', '.join(wrong)}")
        detail = {}
        for c in self.criteria:
            p = float(verdicts[c.criterion_id])
            if math.isnan(p) or not 0 <= p <= 1:
                raise ValueError(f"criterion {c.criterion_id}: likelihood {p} is not in [0, 1]")
            # Adding zero turns the -0.0 of a deduction that does not apply into 0.0.
            points = p * c.points + 0.0
            detail[c.criterion_id] = ScoreDetail(points, reasons.get(c.criterion_id, ""), p)
        return sum(d.points for d in detail.values()), detail

    def only(self, ids: frozenset[str] | set[str]) -> Rubric:
        """The rubric without the criteria that are not in `ids`."""
        return Rubric(tuple(c for c in self.criteria if c.criterion_id in ids), self.task)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    points: Annotated[float, Field(allow_inf_nan=False)]


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    task: str = ""
    criteria: Annotated[list[_Entry], Field(min_length=1)]


def load_rubric(path: Path | None = None) -> Rubric:
    """Reads a rubric file; None: the built-in negotiation rubric.

    Raises `RewardConfigError` naming file and key: duplicate criterion, empty question, missing
    points, unknown key.
    """
    path = path or BUILT_IN
    declaration = read_declaration(path, _Declaration)
    seen: set[str] = set()
    for index, entry in enumerate(declaration.criteria):
        if entry.id in seen:
            raise RewardConfigError(
                f"{path}: criteria[{index}].id: criterion {entry.id!r} is declared twice"
            )
        seen.add(entry.id)
    return Rubric(
        tuple(Criterion(e.id, e.question, e.points) for e in declaration.criteria),
        declaration.task,
    )
