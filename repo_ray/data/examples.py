"""Typed rows of the data sets that have no record of their own.

`split` is `train` or `heldout`: the row's own, or the reader's choice where the row has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from repo_ray.records import Prompt


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a better and a worse reply. `source` and `defect` are "" where not given."""

    prompt: Prompt
    chosen: str
    rejected: str
    split: str
    source: str = ""
    defect: str = ""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with a reply to imitate."""

    prompt: Prompt
    reply: str
    split: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A prompt, a reply, and for each criterion id whether it applies to the reply."""

    prompt: Prompt
    reply: str
    labels: Mapping[str, bool]
    split: str


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """One agent turn of an evaluation dialogue; `issue` is "" outside bad-case sets,
    `annotation` (a good reply by its author) where there is none."""

    dialogue_id: str
    turn: int
    prompt: Prompt
    issue: str = ""
    annotation: str = ""
