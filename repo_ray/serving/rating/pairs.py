"""What raters see: the replies of two evaluation columns to the same dialogue, paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from repo_ray.evaluation.evaluate import evaluation_path, load_evaluation
from repo_ray.pipeline.run_folder import RunFolder
from repo_ray.records import Message
from repo_ray.serving.rating.ratings import PairKey, RatingError

#: What is compared where nothing else is asked for: what training started from and its result.
_USUAL = ("warm_start", "repo")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies, each with its column, to one dialogue; `context` is JSON as evaluated."""

    set: str
    dialogue_id: str
    turn: int
    messages: tuple[Message, ...]
    context: str | None
    replies: tuple[tuple[str, str], tuple[str, str]]

    @property
    def key(self) -> PairKey:
        """The same as that of a rating of this pair."""
        return (self.set, self.dialogue_id, self.turn, frozenset(self.replies))

    def sides(self, rater: str, seed: int) -> tuple[tuple[str, str], tuple[str, str]]:
        """The replies from left to right: drawn anew for each rater, the same on every look."""
        drawn = Random(f"{seed}/{rater}/{self.set}/{self.dialogue_id}/{self.turn}").random()
        return self.replies if drawn < 0.5 else (self.replies[1], self.replies[0])


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pairs in the order in which everybody rates them, and how many were left out:
    with the same reply in both columns, or without a counterpart (other dialogue or none)."""

    pairs: Sequence[Pair]
    same: int
    unmatched: int


def load_pairs(run: Path, columns: tuple[str, str] | None, seed: int) -> Pairing:
    """Pairs the saved replies of two columns; None takes the usual two, or the only two.

    The order is shuffled with `seed` and the same for all raters: whoever stops early has rated
    a random part, and the same part as the others. Raises `RatingError`.
    """
    folder = RunFolder(run).evaluation
    first, second = (_rows(folder, column) for column in _chosen(folder, columns))
    pairs, same, unmatched = [], 0, len(first.keys() ^ second.keys())
    for at in sorted(first.keys() & second.keys()):
        a, b = first[at], second[at]
        if a["messages"] != b["messages"]:
            unmatched += 1
        elif a["reply"].strip() == b["reply"].strip():
            same += 1
        else:
            messages = tuple(Message(m["role"], m["content"]) for m in a["messages"])
            replies = ((a["column"], a["reply"]), (b["column"], b["reply"]))
            pairs.append(Pair(*at, messages, a["context"], replies))
    if not pairs:
        raise RatingError(
            f"{folder}: nothing to compare in these columns: {same} replies are the same, "
            f"{unmatched} have no counterpart"
        )
    Random(f"{seed}/order").shuffle(pairs)
    return Pairing(pairs, same, unmatched)


def _chosen(folder: Path, columns: tuple[str, str] | None) -> tuple[str, str]:
    pattern = evaluation_path(folder, "*").name
    before, after = pattern.split("*")
    found = sorted(p.name.removeprefix(before).removesuffix(after) for p in folder.glob(pattern))
    if not found:
        raise RatingError(f"{folder}: no evaluated replies ({pattern})")
    has = f"the run has {', '.join(found)}"
    if columns is None:
        if set(_USUAL) <= set(found):
            return _USUAL
        if len(found) != 2:
            raise RatingError(f"{folder}: which two columns? {has}")
        return found[0], found[1]
    for column in columns:
        if column not in found:
            raise RatingError(f"{folder}: no column {column!r}: {has}")
    if columns[0] == columns[1]:
        raise RatingError(f"{columns[0]!r} cannot be compared with itself: {has}")
    return columns


def _rows(folder: Path, column: str) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    try:
        rows = load_evaluation(folder, column)
    except (pa.ArrowException, OSError) as error:
        raise RatingError(f"{evaluation_path(folder, column)}: cannot be read: {error}") from None
    return {(r["set"], r["dialogue_id"], r["turn"]): {**r, "column": column} for r in rows}
