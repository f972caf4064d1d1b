"""Where every prompt went: issued = consumed + dropped, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repo_ray.records import Score


@dataclass
class Ledger:
    """Counts prompts and samples.

    A prompt is issued once per epoch and ends as consumed (it entered a batch) or dropped
    (with its cause). `samples` counts every reply sampled, so retries show; `scores` and
    `scores_by_source` count scores asked for, `invalid` those that could not be had, by source
    and cause.
    """

    issued: int = 0
    consumed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    scores: int = 0
    scores_by_source: Counter[str] = field(default_factory=Counter)
    #: Of each attempt thrown away for its scores, the mean tokens of a reply. One batch's alone.
    discarded_tokens: list[float] = field(default_factory=list)

    def count_score(self, score: Score) -> None:
        self.scores += 1
        self.scores_by_source[score.source] += 1
        if not score.valid:
            self.invalid[f"{score.source}: {cause(score.error)}"] += 1

    @property
    def balanced(self) -> bool:
        return self.issued == self.consumed + sum(self.dropped.values())

    @property
    def most_invalid(self) -> tuple[str, float]:
        """The source with the largest share of invalid scores, and that share; ("", 0.0) if no
        score was asked for. One source that is down is not hidden by those that answer."""
        invalid: Counter[str] = Counter()
        for reason, count in self.invalid.items():
            invalid[reason.partition(": ")[0]] += count
        shares = {source: invalid[source] / n for source, n in self.scores_by_source.items()}
        return max(shares.items(), key=lambda item: item[1], default=("", 0.0))

    def add(self, other: Ledger) -> None:
        self.issued += other.issued
        self.consumed += other.consumed
        self.samples += other.samples
        self.scores += other.scores
        self.scores_by_source.update(other.scores_by_source)
        self.dropped.update(other.dropped)
        self.invalid.update(other.invalid)

    def state(self) -> dict[str, Any]:
        return {
            "issued": self.issued,
            "consumed": self.consumed,
            "dropped": dict(self.dropped),
            "samples": self.samples,
            "scores": self.scores,
            "scores_by_source": dict(self.scores_by_source),
            "invalid": dict(self.invalid),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Ledger:
        return cls(
            issued=state["issued"],
            consumed=state["consumed"],
            dropped=Counter(state["dropped"]),
            samples=state["samples"],
            invalid=Counter(state["invalid"]),
            scores=state["scores"],
            # Checkpoints of earlier versions do not have it; shares are taken of single steps.
            scores_by_source=Counter(state.get("scores_by_source", {})),
        )


def in_words(causes: Counter[str]) -> str:
    """The most frequent causes with their counts."""
    return ", ".join(f"{name} x{count}" for name, count in causes.most_common(5))


def cause(error: str) -> str:
    """The short cause in front of the colon of a score's error."""
    return error.partition(":")[0].strip() or "unknown"
