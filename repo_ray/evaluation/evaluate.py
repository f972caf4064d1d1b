"""Judges generated replies with the gold evaluator and keeps every verdict as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repo_ray.evaluation.gold import judge_reply, knows_task
from repo_ray.records import (
    MESSAGES,
    FinishReason,
    Message,
    Reward,
    Score,
    scores_to_json,
)

SKILLS = ("fluency", "workflow_compliance", "negotiation_effectiveness", "scope_understanding")
#: Skills that the paper sees emerge in training; null where a turn gives no occasion for them.
EMERGENT = ("emotional_value", "hotel_type_fit", "limited_information")

#: `evaluation-<column>.parquet`: one row per judged reply. `set` is the evaluation set (`online`
#: or `badcases`); `issues` a JSON list of {id, severity, reason}; `merits` a JSON object;
#: `scores` as `records.scores_to_json` writes it, empty where the reward sources were not asked.
#: `scope` is `text` where the gold evaluator does not know the task (`gold.knows_task`): what it
#: would say of more than the language, from `gold_score` to `excellent`, is null then.
EVALUATION_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("dialogue_id", pa.string(), nullable=False),
        pa.field("turn", pa.int64(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("context", pa.string()),
        pa.field("issue", pa.string()),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("gold_score", pa.float64()),
        pa.field("rating", pa.int64()),
        pa.field("excellent", pa.bool_()),
        pa.field("scope", pa.string(), nullable=False),
        *(pa.field(skill, pa.bool_()) for skill in SKILLS),
        *(pa.field(skill, pa.bool_()) for skill in EMERGENT),
        pa.field("issues", pa.string(), nullable=False),
        pa.field("merits", pa.string(), nullable=False),
        pa.field("scores", pa.string()),
        pa.field("reward", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class GeneratedReply:
    """One reply to one evaluation row; scores and reward only where the sources were asked."""

    text: str
    finish_reason: FinishReason
    tokens: int
    scores: tuple[Score, ...] = ()
    reward: Reward | None = None


def evaluate_rows(
    rows: Sequence[Mapping[str, Any]], replies: Sequence[GeneratedReply], set_name: str
) -> list[dict[str, Any]]:
    """One dict of `EVALUATION_SCHEMA` per row of `records.DIALOGUES_SCHEMA`, in order.

    Raises ValueError when the lengths differ or a row's `context` or `hidden` is not a JSON object.
    """
    if len(rows) != len(replies):
        raise ValueError(f"{set_name}: {len(rows)} rows but {len(replies)} replies")
    return [_evaluate(row, reply, set_name) for row, reply in zip(rows, replies, strict=True)]


def _evaluate(row: Mapping[str, Any], reply: GeneratedReply, set_name: str) -> dict[str, Any]:
    where = f"{set_name}, dialogue {row['dialogue_id']}, turn {row['turn']}"
    messages = tuple(
        m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in row["messages"]
    )
    verdict = judge_reply(
        messages,
        _json_object(row.get("context"), f"{where}, context"),
        _json_object(row.get("hidden"), f"{where}, hidden"),
        reply.text,
    )
    judged: dict[str, Any] = {
        "gold_score": verdict.score,
        "rating": verdict.rating,
        "excellent": verdict.excellent,
        **asdict(verdict.skills),
    }
    if verdict.scope == "text":
        judged = dict.fromkeys(judged) | {"fluency": verdict.skills.fluency}
    return {
        "set": set_name,
        "dialogue_id": row["dialogue_id"],
        "turn": row["turn"],
        "messages": [asdict(m) for m in messages],
        "context": row.get("context"),
        "issue": row.get("issue"),
        "reply": reply.text,
        "finish_reason": reply.finish_reason,
        "tokens": reply.tokens,
        **judged,
        "scope": verdict.scope,
        **asdict(verdict.emergent),
        "issues": json.dumps([asdict(i) for i in verdict.issues], ensure_ascii=False),
        "merits": json.dumps(dict(verdict.merits)),
        "scores": scores_to_json(reply.scores) if reply.scores else None,
        "reward": reply.reward.total if reply.reward else None,
    }


def _json_object(text: str | None, where: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a JSON object was expected, not {type(value).__name__}")
    return value


def evaluation_path(folder: Path, column: str) -> Path:
    """Where the verdicts of one column (`base`, `warm_start`, `repo`, ...) are kept."""
    return folder / f"evaluation-{column}.parquet"


def save_evaluation(folder: Path, column: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the rows of `evaluate_rows`; measures can be recomputed from the file alone."""
    path = evaluation_path(folder, column)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=EVALUATION_SCHEMA), path)
    return path


def load_evaluation(folder: Path, column: str) -> list[dict[str, Any]]:
    """The inverse of `save_evaluation`."""
    return pq.read_table(evaluation_path(folder, column), schema=EVALUATION_SCHEMA).to_pylist()


def judge_samples(
    trajectories: Iterable[Mapping[str, Any]], hidden: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """The rows with `gold_score` and `serious`, judged after training; it never sees them.

    `trajectories` have `prompt_id`, `messages`, `context` and `reply` (of
    `records.TRAJECTORIES_SCHEMA`); `hidden` is the prompts' hidden JSON by prompt id.
    Samples of a task that the evaluator does not know are left out.
    """
    judged = []
    for row in trajectories:
        where = f"trajectory of prompt {row['prompt_id']}"
        context = _json_object(row["context"], f"{where}, context")
        if not knows_task(context):
            continue
        verdict = judge_reply(
            tuple(Message(m["role"], m["content"]) for m in row["messages"]),
            context,
            _json_object(hidden.get(row["prompt_id"]), f"{where}, hidden"),
            row["reply"],
        )
        serious = verdict.worst() in ("major", "severe")
        judged.append({**row, "gold_score": verdict.score, "serious": serious})
    return judged


def gold_curve(
    trajectories: Iterable[Mapping[str, Any]], hidden: Mapping[str, str | None]
) -> list[dict[str, float]]:
    """Gold score by learner step, from rows as for `judge_samples` that have a `step`.

    `step` counts as in `metrics.jsonl`: 1 is the first update.
    """
    by_step: dict[int, list[tuple[float, bool]]] = {}
    for row in judge_samples(trajectories, hidden):
        by_step.setdefault(int(row["step"]), []).append((row["gold_score"], row["serious"]))
    return [
        {
            "step": float(step + 1),
            "gold_score": sum(score for score, _ in found) / len(found),
            "serious_issue_rate": sum(serious for _, serious in found) / len(found),
        }
        for step, found in sorted(by_step.items())
    ]
