"""Ratings as preference rows: what the raters of a pair agree on by majority."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repo_ray.data.validation import validate
from repo_ray.records import PREFERENCES_SCHEMA, Message
from repo_ray.serving.rating.ratings import Rating, RatingError, load_ratings

_EQUAL = ("both_good", "both_bad")


@dataclass(frozen=True, slots=True)
class Preferences:
    """Rows of `records.PREFERENCES_SCHEMA`, and the pairs of replies that gave none.

    `ties`: more than half of the raters called them equal; `split`: no answer has more than half
    of the raters; `empty`: one of the replies has no words, which is no training text.
    """

    rows: list[dict[str, Any]]
    ties: int
    split: int
    empty: int


def preferences(ratings: list[Rating]) -> Preferences:
    """One row for each pair of texts in which more than half of its raters prefer the same one.

    `source` is `rater:` and the names of those who prefer it, joined by `+`.
    """
    groups: dict[tuple[str, tuple[Message, ...], frozenset[str]], dict[str, Rating]] = {}
    for rating in ratings:
        texts = frozenset((rating.left.reply, rating.right.reply))
        key = (_prompt_id(rating), rating.messages, texts)
        groups.setdefault(key, {})[rating.rater] = rating
    rows: list[dict[str, Any]] = []
    ties = split = empty = 0
    for (prompt_id, messages, texts), by_rater in groups.items():
        votes = Counter(_preferred(rating) for rating in by_rater.values())
        chosen, count = votes.most_common(1)[0]
        if 2 * count <= len(by_rater):
            split += 1
        elif chosen is None:
            ties += 1
        elif not all(text.strip() for text in texts):
            empty += 1
        else:
            (rejected,) = texts - {chosen}
            raters = sorted(name for name, r in by_rater.items() if _preferred(r) == chosen)
            rows.append(
                {
                    "prompt_id": prompt_id,
                    "messages": [asdict(message) for message in messages],
                    "chosen": chosen,
                    "rejected": rejected,
                    "source": f"rater:{'+'.join(raters)}",
                    "context": by_rater[raters[0]].context,
                }
            )
    return Preferences(rows, ties, split, empty)


def export_preferences(run: Path, out: Path) -> Preferences:
    """Writes the preferences of all of a run's ratings as Parquet that passes validation.

    Raises `RatingError` when there are none or the file would have faults; then nothing is written.
    """
    if out.suffix != ".parquet":
        raise RatingError(f"{out}: expected a file named *.parquet")
    ratings = load_ratings(run)
    found = preferences(ratings)
    if not found.rows:
        raise RatingError(f"{run}: no preference in {len(ratings)} ratings")
    partial = out.with_name(f".partial-{out.name}")
    try:
        pq.write_table(pa.Table.from_pylist(found.rows, schema=PREFERENCES_SCHEMA), partial)
        faults = validate(partial, "preferences")
        if faults:
            raise RatingError(f"{run}: the ratings make no valid data set: {faults[0]}")
        partial.replace(out)
    except OSError as error:
        raise RatingError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return found


def _prompt_id(rating: Rating) -> str:
    return f"{rating.set}/{rating.dialogue_id}/{rating.turn}"


def _preferred(rating: Rating) -> str | None:
    """The text that this rater prefers; None where both are equal."""
    if rating.choice in _EQUAL:
        return None
    return rating.left.reply if rating.choice == "left" else rating.right.reply
