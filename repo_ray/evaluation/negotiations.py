"""Finished negotiations: how they ended for both sides, and what gold says of every reply.

The outcome is the simulated hotelier's account. Replies over the mandate are counted a second
time by the gold evaluator, from the words alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from repo_ray.evaluation.bootstrap import MeasureSpec, Part, Row, Unit, per_dialogue
from repo_ray.evaluation.gold import GoldVerdict, judge_reply
from repo_ray.evaluation.measures import SERIOUS
from repo_ray.records import Message

#: `set` of every row, so that the measures of `bootstrap` tell these dialogues from judged turns.
SET = "negotiations"
#: Gold findings that a reply went over the mandate.
OVER_MANDATE = frozenset({"commits_above_mandate", "asks_above_mandate"})

#: `negotiations-<column>.parquet`: one row per dialogue. `price_reduction` is the share of what
#: was possible, `hotel_margin` a share of the settled price (null where nothing was settled),
#: `satisfaction` in [0, 1]; `attainable`: the mandate allows an agreement on every ticket.
#: `mandate_violations` counts (turn, ticket) pairs as the simulator sees them, `gold_violations`
#: the turns in which gold finds one. `gold_rating` and `gold_score` are means over turns.
#: `transcript` is a JSON list of turns: `hotelier`, `stage`, `reply`, `finish_reason`, `tokens`
#: and `gold` (score, rating, excellent, skills, emergent, issues).
NEGOTIATIONS_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("dialogue_id", pa.string(), nullable=False),
        pa.field("episode_seed", pa.int64(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("agreed", pa.bool_(), nullable=False),
        pa.field("walked_away", pa.bool_(), nullable=False),
        pa.field("attainable", pa.bool_()),
        pa.field("turns", pa.int64(), nullable=False),
        pa.field("price_reduction", pa.float64()),
        pa.field("hotel_margin", pa.float64()),
        pa.field("satisfaction", pa.float64()),
        pa.field("mandate_violations", pa.int64(), nullable=False),
        pa.field("gold_violations", pa.int64(), nullable=False),
        pa.field("serious_turns", pa.int64(), nullable=False),
        pa.field("gold_rating", pa.float64(), nullable=False),
        pa.field("gold_score", pa.float64(), nullable=False),
        pa.field("excellent", pa.bool_(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("transcript", pa.string(), nullable=False),
    ]
)


class PromptLike(Protocol):
    """`records.Prompt`: the conversation before the reply, and its facts."""

    @property
    def messages(self) -> Sequence[Message]: ...
    @property
    def context(self) -> Mapping[str, Any]: ...


class TurnLike(Protocol):
    """One turn of the agent. `hidden` is the truth before the reply; `tokens` its length."""

    @property
    def prompt(self) -> PromptLike: ...
    @property
    def hidden(self) -> Mapping[str, Any]: ...
    @property
    def reply(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def tokens(self) -> int: ...


class NegotiationLike(Protocol):
    """A finished dialogue, as the rollout of episodes gives it."""

    @property
    def episode_seed(self) -> int: ...
    @property
    def prompt_id(self) -> str: ...
    @property
    def turns(self) -> Sequence[TurnLike]: ...
    @property
    def outcome(self) -> Any: ...


def judge_negotiations(negotiations: Sequence[NegotiationLike]) -> list[dict[str, Any]]:
    """One dict of `NEGOTIATIONS_SCHEMA` per negotiation, in order.

    `outcome` is a mapping, or a dataclass, with `agreed`, `walked_away`, `turns`, `reduction`,
    `margin`, `satisfaction`, `mandate_violations` and optionally `attainable`. Raises ValueError
    naming dialogue and key when one is missing or of the wrong type, when a dialogue has no turn,
    and when two have the same prompt and seed.
    """
    rows = [_row(negotiation) for negotiation in negotiations]
    seen: set[str] = set()
    for row in rows:
        if row["dialogue_id"] in seen:
            raise ValueError(f"negotiation {row['dialogue_id']}: given twice")
        seen.add(row["dialogue_id"])
    return rows


def _row(negotiation: NegotiationLike) -> dict[str, Any]:
    name = f"{negotiation.prompt_id}/{negotiation.episode_seed}"
    if not negotiation.turns:
        raise ValueError(f"negotiation {name}: at least one turn was expected")
    outcome = _read_outcome(negotiation.outcome, name)
    if outcome["turns"] != len(negotiation.turns):
        raise ValueError(
            f"negotiation {name}: outcome['turns']: {len(negotiation.turns)} was expected, the "
            f"number of replies, not {outcome['turns']}"
        )
    verdicts = [
        judge_reply(tuple(t.prompt.messages), t.prompt.context, t.hidden, t.reply)
        for t in negotiation.turns
    ]
    count = len(verdicts)
    return {
        "set": SET,
        "dialogue_id": name,
        "episode_seed": negotiation.episode_seed,
        "prompt_id": negotiation.prompt_id,
        **outcome,
        "gold_violations": sum(any(i.id in OVER_MANDATE for i in v.issues) for v in verdicts),
        "serious_turns": sum(v.worst() in SERIOUS for v in verdicts),
        "gold_rating": sum(v.rating for v in verdicts) / count,
        "gold_score": sum(v.score for v in verdicts) / count,
        "excellent": any(v.excellent for v in verdicts),
        "tokens": sum(t.tokens for t in negotiation.turns),
        "transcript": json.dumps(
            [_turn(t, v) for t, v in zip(negotiation.turns, verdicts, strict=True)],
            ensure_ascii=False,
        ),
    }


def _turn(turn: TurnLike, verdict: GoldVerdict) -> dict[str, Any]:
    said = [m.content for m in turn.prompt.messages if m.role == "user"]
    return {
        "hotelier": said[-1] if said else "",
        "stage": turn.prompt.context.get("stage"),
        "reply": turn.reply,
        "finish_reason": turn.finish_reason,
        "tokens": turn.tokens,
        "gold": {
            "score": verdict.score,
            "rating": verdict.rating,
            "excellent": verdict.excellent,
            "skills": asdict(verdict.skills),
            "emergent": asdict(verdict.emergent),
            "issues": [asdict(i) for i in verdict.issues],
        },
    }


#: Column -> key of the outcome, type, and whether it may be missing.
_OUTCOME: dict[str, tuple[str, type, bool]] = {
    "agreed": ("agreed", bool, False),
    "walked_away": ("walked_away", bool, False),
    "attainable": ("attainable", bool, True),
    "turns": ("turns", int, False),
    "price_reduction": ("reduction", float, True),
    "hotel_margin": ("margin", float, True),
    "satisfaction": ("satisfaction", float, True),
    "mandate_violations": ("mandate_violations", int, False),
}


def _read_outcome(outcome: Any, name: str) -> dict[str, Any]:
    if is_dataclass(outcome) and not isinstance(outcome, type):
        outcome = asdict(outcome)
    if not isinstance(outcome, Mapping):
        raise ValueError(f"negotiation {name}: outcome: a mapping was expected, not {outcome!r}")
    found: dict[str, Any] = {}
    for column, (key, kind, optional) in _OUTCOME.items():
        value = outcome.get(key)
        right = isinstance(value, bool) == (kind is bool) and isinstance(
            value, (int, float) if kind is float else kind
        )
        if not right and not (optional and value is None):
            raise ValueError(
                f"negotiation {name}: outcome[{key!r}]: {kind.__name__} was expected, not {value!r}"
            )
        found[column] = float(value) if kind is float and value is not None else value
    return found


def negotiations_path(folder: Path, column: str) -> Path:
    """Where the negotiations of one column (`base`, `warm_start`, `repo`, ...) are kept."""
    return folder / f"negotiations-{column}.parquet"


def save_negotiations(folder: Path, column: str, rows: Sequence[Row]) -> Path:
    """Writes the rows of `judge_negotiations`; measures can be recomputed from the file alone."""
    path = negotiations_path(folder, column)
    pq.write_table(pa.Table.from_pylist([dict(r) for r in rows], schema=NEGOTIATIONS_SCHEMA), path)
    return path


def load_negotiations(folder: Path, column: str) -> list[dict[str, Any]]:
    """The inverse of `save_negotiations`."""
    return pq.read_table(negotiations_path(folder, column), schema=NEGOTIATIONS_SCHEMA).to_pylist()


def _field(name: str) -> Callable[[Sequence[Row]], Part]:
    def value(rows: Sequence[Row]) -> float | None:
        found = rows[0][name]
        return None if found is None else float(found)

    return per_dialogue(value)


def _per_turn(name: str, factor: float) -> Callable[[Sequence[Row]], Part]:
    return lambda rows: (factor * rows[0][name], float(rows[0]["turns"]))


def _agreed_where_possible(rows: Sequence[Row]) -> float | None:
    return float(rows[0]["agreed"]) if rows[0]["attainable"] else None


def _spec(
    name: str,
    label: str,
    definition: str,
    unit: Unit,
    better: Any,
    part: Callable[[Sequence[Row]], Part],
) -> MeasureSpec:
    return MeasureSpec(name, label, definition, unit, better, SET, part)


#: For `measures.compare_columns(..., specs=NEGOTIATION_MEASURES)`.
NEGOTIATION_MEASURES: tuple[MeasureSpec, ...] = (
    _spec(
        "agreement_rate",
        "Agreements",
        "Share of negotiations in which every ticket was settled.",
        "share",
        "higher",
        _field("agreed"),
    ),
    _spec(
        "attainable_agreement_rate",
        "Agreements where possible",
        "The same, among negotiations whose mandate allows one.",
        "share",
        "higher",
        per_dialogue(_agreed_where_possible),
    ),
    _spec(
        "walked_away",
        "Hotel walked away",
        "Share of negotiations that the hotelier broke off.",
        "share",
        "lower",
        _field("walked_away"),
    ),
    _spec(
        "price_reduction",
        "Price reduction",
        "Share of the possible reduction (opening to reservation price) that was reached.",
        "share",
        "higher",
        _field("price_reduction"),
    ),
    _spec(
        "hotel_margin",
        "Hotel's margin",
        "(settled price - reservation price) / settled price, over negotiations with a settlement.",
        "share",
        "higher",
        _field("hotel_margin"),
    ),
    _spec(
        "satisfaction",
        "Hotel's satisfaction",
        "From trust, patience left and bargaining room kept, 0 to 1.",
        "score",
        "higher",
        _field("satisfaction"),
    ),
    _spec(
        "turns",
        "Turns",
        "Replies of the agent per negotiation.",
        "count",
        "neither",
        _field("turns"),
    ),
    _spec(
        "mandate_violations",
        "Over the mandate",
        "Per 100 turns, as the simulator counts them.",
        "count",
        "lower",
        _per_turn("mandate_violations", 100),
    ),
    _spec(
        "gold_violations",
        "Over the mandate (gold)",
        "Turns per 100 in which the independent evaluator finds it, from the words alone.",
        "count",
        "lower",
        _per_turn("gold_violations", 100),
    ),
    _spec(
        "negotiation_rating",
        "Gold rating (1-5)",
        "Gold rating of every reply, averaged within a negotiation, then over negotiations.",
        "rating",
        "higher",
        _field("gold_rating"),
    ),
    _spec(
        "negotiation_excellent",
        "With an excellent reply",
        "Share of negotiations with at least one reply that gold calls excellent.",
        "share",
        "higher",
        _field("excellent"),
    ),
    _spec(
        "negotiation_serious",
        "Turns with a serious issue",
        "Share of replies with a major or severe issue of the independent evaluator.",
        "share",
        "lower",
        _per_turn("serious_turns", 1),
    ),
)
