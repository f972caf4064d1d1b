"""The typed records on every wire, and their Arrow schemas.

Flow: Prompt -> Rollout -> Score (one per reward source) -> Reward -> Experience.
Records are immutable and hold plain Python values, so that Ray can ship them and
Parquet can store them without pickling code. Nothing here imports torch or Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

Source = Literal["reward_model", "judge", "rules"]
FinishReason = Literal["stop", "length"]

#: Chat messages as stored: a list of (role, content) structs, oldest first.
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn. `role` is `system`, `user` (the hotelier) or `assistant` (the agent)."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for the agent's next reply.

    `context` holds the facts that the agent may know (prices, mandate, SOP stage); rules
    and judge check replies against it. Hidden truth (the hotelier's reservation price)
    is deliberately not here: only `evaluation.gold` reads it, from its own column.
    """

    prompt_id: str
    messages: tuple[Message, ...]
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled reply, or all replies of a dialogue.

    `token_ids`, `loss_mask`, `logprobs` and `versions` have one entry per response token [T]:
    the sampled id, whether the loss counts it, its log-probability (nats) under the sampling
    distribution of the engine (after temperature), and the adapter version that sampled it.

    Of a dialogue, the response runs from the first reply's first token to the last reply's last.
    The tokens in between that nobody sampled (template, new facts, the hotelier's message) are
    masked: log-probability 0, and the version that sampled the reply after them. `text` has the
    replies, a line break between them; `finish_reason` is `length` where the last reply was cut
    or the context had no room for another turn.
    """

    sample_id: str
    prompt_id: str
    attempt: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    finish_reason: FinishReason
    text: str
    engine: str = ""
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        for name in ("loss_mask", "logprobs", "versions"):
            if len(getattr(self, name)) != length:
                raise ValueError(
                    f"rollout {self.sample_id}: {name} has {len(getattr(self, name))} entries "
                    f"for {length} response tokens"
                )


@dataclass(frozen=True, slots=True)
class ScoreDetail:
    """One criterion, rule or component of a score: its points and why.

    `likelihood` is the judge's probability in [0, 1] that a criterion applies (1 or 0 for a
    plain verdict), kept so that saved scores can be replayed with other points.
    """

    points: float
    reason: str = ""
    likelihood: float | None = None


#: Most characters of a reason that users' rules or a judge give.
LONGEST_REASON = 1000


def storable(reason: str) -> str:
    """A reason as trajectories can hold it: cut to `LONGEST_REASON`, `?` for what is no Unicode."""
    return reason[:LONGEST_REASON].encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Score:
    """What one reward source says of one reply. An invalid score has no value, never zero."""

    source: Source
    value: float | None
    detail: Mapping[str, ScoreDetail] = field(default_factory=dict)
    latency_s: float = 0.0
    error: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error == ""):
            raise ValueError(f"{self.source} score: exactly one of value and error must be set")

    @property
    def valid(self) -> bool:
        return self.value is not None

    @classmethod
    def invalid(cls, source: Source, error: str, latency_s: float = 0.0) -> Score:
        """A score that could not be had. `error` starts with a short cause, then a colon."""
        return cls(source, None, latency_s=latency_s, error=error or "unknown: no reason given")


@dataclass(frozen=True, slots=True)
class Reward:
    """The combined reward of one reply (paper, section on reward enhancement)."""

    total: float
    r_model: float
    e_judge: float
    e_func: float
    e_enh: float
    multiplier: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """A prompt that entered no batch: its place in the step's batch, and why the last attempt at
    it came to nothing."""

    prompt_id: str
    position: int
    attempts: int
    cause: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One scored reply of a dialogue. `prompt` is what it was scored with: the conversation before
    it under the facts of that turn. The agent had the same in the order in which it came.
    `last_token` is the index, in the dialogue's response tokens, of the reply's last one."""

    prompt: Prompt
    reply: str
    finish_reason: FinishReason
    last_token: int
    scores: tuple[Score, ...]
    reward: Reward


@dataclass(frozen=True, slots=True)
class Experience:
    """A scored rollout, ready for the learner.

    `token_rewards` are pairs of a response token's index and the reward placed there; without
    any, `reward.total` is on the last token that the loss counts.

    Of a dialogue, `turns` holds every reply with what it was given for. `prompt` is then the
    opening, `scores` are those of all turns in order, and `reward` is the mean over the turns,
    field by field.
    """

    prompt: Prompt
    rollout: Rollout
    scores: tuple[Score, ...]
    reward: Reward
    token_rewards: tuple[tuple[int, float], ...] = ()
    turns: tuple[Turn, ...] = ()


# --- Parquet ---------------------------------------------------------------------------

#: `prompts.parquet`. `context` is a JSON object of facts; `hidden` a JSON object that only
#: the gold evaluator reads (training drops the column); `family` names the template family
#: that splits hold out; user data may leave the last three empty.
PROMPTS_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("context", pa.string()),
        pa.field("hidden", pa.string()),
        pa.field("family", pa.string()),
        pa.field("split", pa.string()),
    ]
)

#: `preferences.parquet`: one prompt with a better and a worse reply.
PREFERENCES_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("defect", pa.string()),
        pa.field("context", pa.string()),
        pa.field("family", pa.string()),
        pa.field("split", pa.string()),
    ]
)

#: `sft.parquet`: demonstrations.
SFT_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("context", pa.string()),
        pa.field("family", pa.string()),
        pa.field("split", pa.string()),
    ]
)

#: `verdicts.parquet`: for tuning the judge; `labels` maps criterion id to whether it applies.
VERDICTS_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.bool_()), nullable=False),
        pa.field("context", pa.string()),
        pa.field("family", pa.string()),
        pa.field("split", pa.string()),
    ]
)

#: `online.parquet`, `badcases.parquet`, `development.parquet`: one row per agent turn of an
#: evaluation dialogue. `issue` names the known failure that a bad-case dialogue provokes;
#: `annotation` is a good reply, for comparison (the paper's gold annotation).
DIALOGUES_SCHEMA = pa.schema(
    [
        pa.field("dialogue_id", pa.string(), nullable=False),
        pa.field("turn", pa.int64(), nullable=False),
        *PROMPTS_SCHEMA,
        pa.field("issue", pa.string()),
        pa.field("annotation", pa.string()),
    ]
)

#: One row per sample of one training step: the whole way from prompt to gradient.
#: Token lists are per response token [T]. `new_logprobs` and `new_values` are the learner's,
#: from the forward pass whose loss was taken; `advantages` are those used in the loss
#: (whitened where the config says so), `returns` the value targets. `token_rewards` says where
#: rewards were placed (`Experience.token_rewards`); where it is empty, `reward` is at the end.
#: The row of a dialogue is its last turn, as far as it is about text and scores: `messages`,
#: `context`, `reply` and everything from `r_model` to `scores` belong together. `turns` has all
#: turns as JSON (`turns_to_json`), null for single replies; `turn_rows` reads them.
TRAJECTORIES_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("attempt", pa.int64()),
        pa.field("messages", MESSAGES),
        pa.field("context", pa.string()),
        pa.field("reply", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("engine", pa.string()),
        pa.field("prompt_token_ids", pa.list_(pa.int64())),
        pa.field("token_ids", pa.list_(pa.int64())),
        pa.field("loss_mask", pa.list_(pa.bool_())),
        pa.field("versions", pa.list_(pa.int64())),
        pa.field("behaviour_logprobs", pa.list_(pa.float64())),
        pa.field("proximal_logprobs", pa.list_(pa.float64())),
        pa.field("new_logprobs", pa.list_(pa.float64())),
        pa.field("old_values", pa.list_(pa.float64())),
        pa.field("new_values", pa.list_(pa.float64())),
        pa.field("advantages", pa.list_(pa.float64())),
        pa.field("returns", pa.list_(pa.float64())),
        pa.field("r_model", pa.float64()),
        pa.field("e_judge", pa.float64()),
        pa.field("e_func", pa.float64()),
        pa.field("e_enh", pa.float64()),
        pa.field("multiplier", pa.float64()),
        pa.field("reward", pa.float64()),
        pa.field("scores", pa.string()),
        pa.field(
            "token_rewards",
            pa.list_(pa.struct([("token", pa.int64()), ("reward", pa.float64())])),
        ),
        pa.field("turns", pa.string()),
    ]
)


def scores_to_json(scores: tuple[Score, ...]) -> str:
    """All scores with every reason, as one JSON object keyed by source."""
    return json.dumps(
        {
            s.source: {
                "value": s.value,
                "latency_s": round(s.latency_s, 6),
                "error": s.error,
                "detail": {
                    k: {"points": d.points, "reason": d.reason}
                    | ({} if d.likelihood is None else {"likelihood": d.likelihood})
                    for k, d in s.detail.items()
                },
            }
            for s in scores
        },
        ensure_ascii=False,
        sort_keys=True,
    )


def scores_from_json(text: str) -> tuple[Score, ...]:
    """The inverse of `scores_to_json`."""
    return tuple(
        Score(
            source,
            s["value"],
            {
                k: ScoreDetail(d["points"], d["reason"], d.get("likelihood"))
                for k, d in s["detail"].items()
            },
            s["latency_s"],
            s["error"],
        )
        for source, s in json.loads(text).items()
    )


def turns_to_json(turns: tuple[Turn, ...]) -> str:
    """A dialogue's turns, oldest first."""
    return json.dumps(
        [
            {
                "messages": [asdict(m) for m in turn.prompt.messages],
                "context": dict(turn.prompt.context),
                "reply": turn.reply,
                "finish_reason": turn.finish_reason,
                "last_token": turn.last_token,
                "reward": asdict(turn.reward),
                "scores": scores_to_json(turn.scores),
            }
            for turn in turns
        ],
        ensure_ascii=False,
    )


def turn_rows(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of `TRAJECTORIES_SCHEMA` as one row per reply: itself, or one for each turn.

    The rows of a dialogue's turns differ in what is about text and scores; `sample_id` gets the
    turn's number, from 1. The columns per token stay those of the whole dialogue.
    """
    if not row.get("turns"):
        return [dict(row)]
    return [
        {
            **row,
            "sample_id": f"{row['sample_id']}-{number}",
            "messages": turn["messages"],
            "context": json.dumps(turn["context"], ensure_ascii=False),
            "reply": turn["reply"],
            "finish_reason": turn["finish_reason"],
            **{name: value for name, value in turn["reward"].items() if name != "total"},
            "reward": turn["reward"]["total"],
            "scores": turn["scores"],
        }
        for number, turn in enumerate(json.loads(row["turns"]), start=1)
    ]
