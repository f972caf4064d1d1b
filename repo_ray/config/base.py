"""What every section of the settings is built from."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
#: An address with a scheme, as opposed to a path.
Url = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://")]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://.")
_CREDENTIALS = re.compile(
    r"://[^/@]*:[^@]*@|[?&](?:sig|[^=&]*(?:key|secret|token|password|signature)[^=&]*)=",
    re.IGNORECASE,
)


def check_url(key: str, url: str, example: str) -> None:
    """Refuses what is no URL and what holds credentials. Raises ValueError naming `key`, never
    repeating the URL.
    """
    if _CREDENTIALS.search(url):
        raise ValueError(
            f"{key}: a URL must not hold credentials (user:password@, keys, tokens): give them by "
            "the environment or the instance"
        )
    if not _SCHEME.match(url):
        raise ValueError(f"{key}: expected a URL such as {example}")


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
