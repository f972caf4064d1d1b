"""What every section of the settings is built from."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

#: One name of Kubernetes' label syntax, which Ray's node labels follow.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
#: Labels that a node must have. Plain values only, none of the operators that Ray also knows.
Labels = dict[
    Annotated[str, StringConstraints(pattern=rf"^(?:{_NAME}/)?{_NAME}$")],
    Annotated[str, StringConstraints(pattern=rf"^{_NAME}$")],
]


class Settings(BaseModel):
    """One section: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
