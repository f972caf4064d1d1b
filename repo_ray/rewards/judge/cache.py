"""Scores of questions that were asked before.

The endpoint judge asks at temperature 0, so the same question to the same judge has the same
answer as far as the server can help it. Repeats come from a policy that gives the same reply again
(most of a group, near the end of training), from checks on fixed prompts, and from a resumed run,
which makes the batch that it lost once more.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from repo_ray.records import Score, scores_from_json, scores_to_json

#: Scores in memory, about two kilobytes each.
CAPACITY = 20_000


class ScoreCache:
    """The `capacity` scores that were stored or asked for last. Only valid ones are kept."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._scores: OrderedDict[str, Score] = OrderedDict()

    def get(self, key: str) -> Score | None:
        if key in self._scores:
            self._scores.move_to_end(key)
        return self._scores.get(key)

    def put(self, key: str, score: Score) -> None:
        if not score.valid:
            return
        self._scores[key] = score
        self._scores.move_to_end(key)
        if len(self._scores) > self._capacity:
            self._scores.popitem(last=False)


def question_key(identity: Mapping[str, str], messages: Sequence[Mapping[str, str]]) -> str:
    """Which judge (`consistency.judge_identity`), and all that it is shown."""
    content = [[identity[part] for part in ("rubric", "prompt", "model")], list(messages)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def append_scores(path: Path, scores: Iterable[tuple[str, Score]]) -> None:
    """Adds lines of JSON: `key`, and the score as in trajectories."""
    lines = [json.dumps({"key": k, "scores": scores_to_json((s,))}) + "\n" for k, s in scores]
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines)


def read_scores(path: Path, newest: int = CAPACITY) -> list[tuple[str, Score]]:
    """The last lines of `append_scores`; none without a file. A line cut off by a crash is left out."""
    if not path.exists():
        return []
    found: list[tuple[str, Score]] = []
    for line in path.read_text(encoding="utf-8").splitlines()[-newest:]:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        (score,) = scores_from_json(entry["scores"])
        found.append((entry["key"], score))
    return found
