"""What becomes of the replies' form: length, repetition inside a reply, one template for all.

These are signs, milder than the alarm of `hacking`: a policy can learn a good template, and a
longer reply can be a better one.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repo_ray.evaluation.measures import distinct_n

Row = Mapping[str, Any]

#: A reply's first words, by which templates are told apart.
OPENING_WORDS = 3
NGRAM = 4
#: Length explosion (or its opposite): the mean length changed by this factor, or the share of
#: replies cut off by the limit grew by this much.
FACTOR, MORE_CUT = 1.5, 0.25
#: Template collapse: mean overlap of two replies grew by this much, and at least doubled; or the
#: variety of openings fell to this share of what it was.
MORE_ALIKE, FEWER_OPENINGS = 0.1, 0.5
#: Babble: the repeated share of a reply's own 4-grams grew by this much.
MORE_REPEATED = 0.15


@dataclass(frozen=True, slots=True)
class Form:
    """Form of a set of replies.

    `words`: mean per reply. `cut`: share ended by the token limit. `repetition`: see
    `repetition`, mean over replies. `distinct_2`: distinct word pairs over all, all replies
    together. `overlap`: see `overlap`. `openings`: see `opening_entropy`.
    """

    words: float
    cut: float
    repetition: float
    distinct_2: float
    overlap: float
    openings: float


def form(rows: Sequence[Row]) -> Form:
    """Of rows with `reply` and `finish_reason`. Raises ValueError without rows."""
    if not rows:
        raise ValueError("form: no replies")
    replies = [masked(str(r["reply"])) for r in rows]
    count = len(rows)
    return Form(
        sum(len(r["reply"].split()) for r in rows) / count,
        sum(r["finish_reason"] == "length" for r in rows) / count,
        sum(map(repetition, replies)) / count,
        distinct_n(replies, 2),
        overlap(replies),
        opening_entropy(replies),
    )


def masked(text: str) -> str:
    """Lower case, numbers as `#`: one template with other prices is still one template."""
    return re.sub(r"\d+(?:[.,]\d+)*", "#", text.lower())


def repetition(text: str) -> float:
    """Share of a text's word 4-grams that occurred in it before; 0 with fewer than five words."""
    grams = _grams(text)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def overlap(texts: Sequence[str]) -> float:
    """Mean over pairs of texts of the Jaccard overlap of their word 4-grams: 0 nothing in common,
    1 all the same. Of a text shorter than four words its words count as one gram.
    """
    sets = [set(_grams(t)) or {tuple(t.split())} for t in texts]
    pairs = list(itertools.combinations(sets, 2))
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs) if pairs else 0.0


def opening_entropy(texts: Sequence[str]) -> float:
    """Entropy of the replies' first three words, as a share of the most there can be: 1 every
    reply opens differently, 0 all open alike (also for a single reply).
    """
    count = len(texts)
    if count < 2:
        return 0.0
    openings = Counter(tuple(t.split()[:OPENING_WORDS]) for t in texts)
    entropy = -sum(n / count * math.log(n / count) for n in openings.values())
    return entropy / math.log(count)


def trend(points: Sequence[tuple[float, float]]) -> float | None:
    """Least-squares slope of (step, value) points, per step; None with fewer than two steps."""
    count = len(points)
    if len({x for x, _ in points}) < 2:
        return None
    x_mean, y_mean = (sum(p[i] for p in points) / count for i in (0, 1))
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return covariance / sum((x - x_mean) ** 2 for x, _ in points)


def length_notice(before: Form, now: Form) -> str:
    """What to say of a change of length since `before`; empty if there is none to speak of."""
    for word, least, most in (("grew", before, now), ("shrank", now, before)):
        if most.words >= FACTOR * least.words and most.words > least.words + 1:
            return f"replies {word} from {before.words:.0f} to {now.words:.0f} words"
    if now.cut >= before.cut + MORE_CUT:
        return f"replies cut off by the limit went from {before.cut:.0%} to {now.cut:.0%}"
    return ""


def collapse_notice(before: Form, now: Form) -> str:
    """What to say of template collapse or babble since `before`; empty if there is neither."""
    said = []
    if now.overlap >= max(before.overlap + MORE_ALIKE, 2 * before.overlap):
        said.append(f"overlap of two replies went from {before.overlap:.2f} to {now.overlap:.2f}")
    if now.openings <= FEWER_OPENINGS * before.openings and before.openings > 0:
        said.append(f"variety of openings went from {before.openings:.2f} to {now.openings:.2f}")
    if now.repetition >= before.repetition + MORE_REPEATED:
        said.append(
            f"repeated 4-grams inside a reply went from {before.repetition:.0%} "
            f"to {now.repetition:.0%}"
        )
    return "; ".join(said)


def _grams(text: str) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[i:] for i in range(NGRAM)), strict=False))
