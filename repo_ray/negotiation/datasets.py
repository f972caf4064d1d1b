"""Builds every data set of the task as Parquet, the same bytes for the same seed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from repo_ray.negotiation.dialogue import Turn, context_of, to_json
from repo_ray.negotiation.evaluation_sets import BAD_CASES, bad_case_dialogue, online_dialogue
from repo_ray.negotiation.grammar import Split
from repo_ray.negotiation.pairs import SOURCES, preference_pair, turn_in
from repo_ray.negotiation.situations import FINAL, OBJECTIONS
from repo_ray.negotiation.verdicts import labelled_replies
from repo_ray.records import (
    DIALOGUES_SCHEMA,
    PREFERENCES_SCHEMA,
    PROMPTS_SCHEMA,
    SFT_SCHEMA,
    VERDICTS_SCHEMA,
    Message,
)

ONLINE_DIALOGUES = 30
BADCASE_DIALOGUES = 45
DEVELOPMENT_DIALOGUES = 20
HELDOUT_SHARE = 0.15
#: Replies judged of each prompt: the same conversation makes one right and another wrong, and a
#: judge that reads it once for all of them trains almost twice as fast.
VERDICTS_PER_PROMPT = 3

#: How often a prompt is of which situation.
_SITUATIONS: dict[str, float] = {
    "greet": 4, "ready": 8, "interest": 10, "silence": 9, "vague": 8, "foreign": 2,
    "quote_high": 11, "quote_middle": 4, "hold": 4, "quote_low": 7, "agree": 7, "settled": 8,
    **dict.fromkeys(OBJECTIONS, 28 / len(OBJECTIONS)),
    **dict.fromkeys(FINAL, 8 / len(FINAL)),
}  # fmt: skip
_SFT_WORDS = range(14, 49)

T = TypeVar("T")
Row = dict[str, Any]


def build_datasets(out_dir: Path, seed: int, preference_rows: int = 6632) -> dict[str, int]:
    """Writes `<name>.parquet` for prompts, preferences, sft, verdicts, online, badcases and
    development into `out_dir` (created if missing) and returns the number of rows of each.

    `prompts` has as many rows as `preferences`; `sft` and `verdicts` half as many. No prompt
    text, numbers aside, occurs twice anywhere. Rows of split `heldout` and all dialogues of the
    online and bad-case sets use template families that no other row uses.
    Raises ValueError when `preference_rows` is below 1.
    """
    if preference_rows < 1:
        raise ValueError(f"preference_rows must be at least 1, not {preference_rows}")
    builder = _Builder(seed)
    half = max(1, preference_rows // 2)
    tables = {
        "online": (builder.online(), DIALOGUES_SCHEMA),
        "badcases": (builder.badcases(), DIALOGUES_SCHEMA),
        "development": (builder.development(), DIALOGUES_SCHEMA),
        "preferences": (builder.preferences(preference_rows), PREFERENCES_SCHEMA),
        "prompts": (builder.prompts(preference_rows), PROMPTS_SCHEMA),
        "sft": (builder.sft(half), SFT_SCHEMA),
        "verdicts": (builder.verdicts(half), VERDICTS_SCHEMA),
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, (rows, schema) in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), out_dir / f"{name}.parquet")
    return {name: len(rows) for name, (rows, _) in tables.items()}


def source_counts(total: int) -> dict[str, int]:
    """`total` rows over the four sources in the paper's proportions (largest remainder)."""
    paper_total = sum(rows for rows, _ in SOURCES.values())
    exact = {name: rows * total / paper_total for name, (rows, _) in SOURCES.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def prompt_key(messages: Sequence[Message]) -> str:
    """The prompt's text without its numbers, for telling whether two prompts are the same."""
    return re.sub(r"\d+", "#", "\n".join(f"{m.role}: {m.content}" for m in messages)).lower()


class _Builder:
    """Draws rows one by one, each from its own random generator, and keeps prompts apart."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._seen: set[str] = set()

    def preferences(self, count: int) -> list[Row]:
        sources = [name for name, rows in source_counts(count).items() for _ in range(rows)]
        Random(f"{self._seed}/sources").shuffle(sources)
        rows = []
        for index, (source, split) in enumerate(zip(sources, _splits(count), strict=True)):
            pair, messages = self._fresh(
                f"preferences/{index}",
                partial(preference_pair, source, split),
                lambda pair: pair.turn,
            )
            rows.append(
                _row(f"preference-{index:05d}", pair.turn, messages, split, pair.families)
                | {
                    "chosen": pair.chosen,
                    "rejected": pair.rejected,
                    "source": source,
                    "defect": pair.defect,
                }
            )
        return rows

    def prompts(self, count: int) -> list[Row]:
        rows = []
        for index, split in enumerate(_splits(count)):
            turn, messages = self._fresh(f"prompts/{index}", partial(_any_turn, split), lambda t: t)
            row = _row(f"prompt-{index:05d}", turn, messages, split, turn.families)
            rows.append(row | {"hidden": to_json(turn.hidden)})
        return rows

    def sft(self, count: int) -> list[Row]:
        def demonstration(split: Split, rng: Random) -> Turn:
            while True:
                turn = _any_turn(split, rng)
                if len(turn.reply.text.split()) in _SFT_WORDS:
                    return turn

        rows = []
        for index, split in enumerate(_splits(count)):
            turn, messages = self._fresh(f"sft/{index}", partial(demonstration, split), lambda t: t)
            families = turn.families | turn.reply.families
            row = _row(f"sft-{index:05d}", turn, messages, split, families)
            rows.append(row | {"reply": turn.reply.text})
        return rows

    def verdicts(self, count: int) -> list[Row]:
        prompts = math.ceil(count / VERDICTS_PER_PROMPT)
        rows: list[Row] = []
        for index, split in enumerate(_splits(prompts)):
            size = min(VERDICTS_PER_PROMPT, count - len(rows))
            made, messages = self._fresh(
                f"verdicts/{index}",
                partial(labelled_replies, split, count=size),
                lambda made: made[0].turn,
            )
            for one in made:
                row = _row(f"verdict-{index:05d}", one.turn, messages, split, one.families)
                rows.append(row | {"reply": one.reply, "labels": list(one.labels.items())})
        return rows

    def online(self) -> list[Row]:
        return self._dialogues(
            "online", [""] * ONLINE_DIALOGUES, "heldout", lambda _, s, rng: online_dialogue(s, rng)
        )

    def badcases(self) -> list[Row]:
        issues = [i for i in BAD_CASES for _ in range(BADCASE_DIALOGUES // len(BAD_CASES))]
        return self._dialogues("badcase", issues, "heldout", bad_case_dialogue)

    def development(self) -> list[Row]:
        """For tuning: families of the training rows, so that tuning never sees held-out ones."""

        def either(issue: str, split: Split, rng: Random) -> list[Turn]:
            return bad_case_dialogue(issue, split, rng) if issue else online_dialogue(split, rng)

        plain = DEVELOPMENT_DIALOGUES - len(BAD_CASES)
        return self._dialogues("development", [""] * plain + list(BAD_CASES), "train", either)

    def _dialogues(
        self,
        name: str,
        issues: Sequence[str],
        split: Split,
        make: Callable[[str, Split, Random], list[Turn]],
    ) -> list[Row]:
        rows: list[Row] = []
        for index, issue in enumerate(issues):
            turns, prompts = self._fresh_dialogue(f"{name}/{index}", partial(make, issue, split))
            for number, (turn, messages) in enumerate(zip(turns, prompts, strict=True), start=1):
                dialogue_id = f"{name}-{index:03d}"
                row = _row(f"{dialogue_id}-{number}", turn, messages, name, turn.families)
                rows.append(
                    row
                    | {
                        "dialogue_id": dialogue_id,
                        "turn": number,
                        "hidden": to_json(turn.hidden),
                        "issue": issue or None,
                        "annotation": turn.reply.text,
                    }
                )
        return rows

    def _fresh(
        self, label: str, make: Callable[[Random], T], turn_of: Callable[[T], Turn]
    ) -> tuple[T, tuple[Message, ...]]:
        """What `make` draws, again until its prompt has not been used before."""
        attempt = 0
        while True:
            rng = Random(f"{self._seed}/{label}/{attempt}")
            made = make(rng)
            messages = turn_of(made).messages(rng.choices((1, 2), (80, 20))[0])
            key = prompt_key(messages)
            if key not in self._seen:
                self._seen.add(key)
                return made, messages
            attempt += 1

    def _fresh_dialogue(
        self, label: str, make: Callable[[Random], list[Turn]]
    ) -> tuple[list[Turn], list[tuple[Message, ...]]]:
        attempt = 0
        while True:
            turns = make(Random(f"{self._seed}/{label}/{attempt}"))
            prompts = [turn.messages(2) for turn in turns]
            keys = {prompt_key(p) for p in prompts}
            if len(keys) == len(turns) and not keys & self._seen:
                self._seen |= keys
                return turns, prompts
            attempt += 1


def _any_turn(split: Split, rng: Random) -> Turn:
    situation = rng.choices(list(_SITUATIONS), list(_SITUATIONS.values()))[0]
    return turn_in(situation, split, rng)


def _splits(count: int) -> list[Split]:
    """`HELDOUT_SHARE` of the rows held out, evenly spread; at least one where there are two."""
    held = max(round(count * HELDOUT_SHARE), 1 if count > 1 else 0)
    return [
        "heldout" if (i + 1) * held // count > i * held // count else "train" for i in range(count)
    ]


def _row(
    prompt_id: str,
    turn: Turn,
    messages: Sequence[Message],
    split: str,
    families: frozenset[str],
) -> Row:
    return {
        "prompt_id": prompt_id,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "context": to_json(context_of(turn.state)),
        "family": ";".join(sorted(families)),
        "split": split,
    }
