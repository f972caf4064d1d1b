"""Ratings as records, and their files: `RUN/ratings/<rater>.jsonl`, one row per rating.

Rows are only ever appended. A rater who changes their mind adds a row; the last one counts.
"""

from __future__ import annotations

import fcntl
import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from repo_ray.records import Message

Choice = Literal["left", "right", "both_good", "both_bad"]
Stars = Annotated[int, Field(ge=1, le=5)]
Note = Annotated[str, Field(max_length=2000)]
#: Time that the page was visible; a day is more than anyone looks at one pair.
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]

#: What was rated: set, dialogue, turn, and both replies with their columns.
PairKey = tuple[str, str, int, frozenset[tuple[str, str]]]

_NAME_LENGTH = 40
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


class RatingError(Exception):
    """The run cannot be rated or its ratings cannot be read. The message names file and row."""


class RatedReply(BaseModel):
    """One reply and what the rater said of it: 1 to 5, and whether it has a serious issue."""

    model_config = _STRICT

    column: Annotated[str, Field(min_length=1)]
    reply: str
    rating: Stars
    serious: bool


class Rating(BaseModel):
    """One person's comparison of two replies to the same dialogue, on the sides as shown.

    A row stands on its own: it holds the dialogue, the agent's facts (`context`, JSON) and both
    replies, so that it keeps its meaning when the run's evaluation is done anew.
    """

    model_config = _STRICT

    rater: str
    set: str
    dialogue_id: str
    turn: int
    messages: tuple[Message, ...]
    context: str | None
    left: RatedReply
    right: RatedReply
    choice: Choice
    note: Note
    seconds: Seconds
    time: AwareDatetime

    @model_validator(mode="after")
    def _consistent(self) -> Rating:
        if self.left.column == self.right.column:
            raise ValueError("left and right are of the same column")
        better = {"left": self.left, "right": self.right}.get(self.choice)
        worse = self.right if better is self.left else self.left
        if better is not None and better.rating < worse.rating:
            raise ValueError("the better reply has the lower rating")
        return self

    @property
    def key(self) -> PairKey:
        sides = ((side.column, side.reply) for side in (self.left, self.right))
        return (self.set, self.dialogue_id, self.turn, frozenset(sides))


def rater_name(text: str) -> str:
    """A person's name as it appears in file names and addresses: `Anna M.` is `anna-m`.

    Raises `RatingError` when nothing is left of it.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    name = re.sub(r"\W+", "-", plain)[:_NAME_LENGTH].strip("-_")
    if not name:
        raise RatingError(f"{text!r} is no name: it needs at least one letter or digit")
    return name


def ratings_path(run: Path, rater: str) -> Path:
    """`rater` is a name of `rater_name`."""
    return run / "ratings" / f"{rater}.jsonl"


def append_rating(path: Path, rating: Rating) -> None:
    """Adds one row, whole or not at all, and safe on disk on return. Raises OSError.

    Half a row, left at the end by a crash, was never acknowledged to the rater: it is cut off.
    """
    path.parent.mkdir(exist_ok=True)
    row = rating.model_dump_json().encode() + b"\n"
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        os.ftruncate(file.fileno(), end)
        try:
            if file.write(row) != len(row):
                raise OSError(f"{path}: the disk took only a part of the row")
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise


def load_ratings(run: Path) -> list[Rating]:
    """All raters' ratings, of each rater and pair the last; [] where nobody has rated.

    `rating.left` and `rating.right` are the judged replies: to compare people with another
    evaluator, look both up by (`set`, `dialogue_id`, `turn`, `column`) and check that the reply
    is still the same. Raises `RatingError`.
    """
    files = sorted((run / "ratings").glob("*.jsonl"))
    return [rating for file in files for rating in read_ratings(file).values()]


def read_ratings(path: Path) -> dict[PairKey, Rating]:
    """One rater's ratings by pair, the last of each; {} without a file. Raises `RatingError`."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    found: dict[PairKey, Rating] = {}
    for number, line in enumerate(lines, start=1):
        try:
            rating = Rating.model_validate_json(line)
        except ValidationError as error:
            raise RatingError(f"{path}, row {number}: {first_fault(error)}") from None
        if rating.rater != path.stem:
            raise RatingError(f"{path}, row {number}: is a rating of {rating.rater!r}")
        found[rating.key] = rating
    return found


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line, with the key where there is one."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else fault["msg"]
