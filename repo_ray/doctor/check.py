"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """`remedy` says what to do when `status` is not ok."""

    name: str
    status: Status
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.status:4}  {self.name:12}  {self.found}"
        return f"{text}. {self.remedy}" if self.remedy else text
