"""Replies with the truth of every judge criterion, known from how each reply was made."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from repo_ray.negotiation.dialogue import Turn
from repo_ray.negotiation.grammar import Split
from repo_ray.negotiation.pairs import SWAPS, turn_in
from repo_ray.negotiation.replies import Reply, Style, compose
from repo_ray.negotiation.situations import FINAL, OBJECTIONS, SILENT, Action, State


@dataclass(frozen=True, slots=True)
class LabelledReply:
    """One reply and which criteria apply to it."""

    turn: Turn
    reply: str
    labels: dict[str, bool]
    families: frozenset[str]


#: (share, situations, actions): chosen so that each criterion is true of 12 to 70 percent.
_MIX: tuple[tuple[int, tuple[str, ...], tuple[Action, ...]], ...] = (
    (20, SILENT, ("accept", "close")),
    (9, SILENT, ("check_in",)),
    (14, ("settled",), ("accept_query", "check_in")),
    (11, ("settled",), ("ask",)),
    (8, ("settled",), ("close",)),
    (9, ("quote_low", "agree"), ("ask",)),
    (5, ("agree",), ("check_in", "accept_query")),
    (8, ("quote_low", "hold"), ("accept", "accept_query")),
    (3, ("agree",), ("accept",)),
    (10, ("interest", *OBJECTIONS, "quote_high"), ("ask",)),
    (4, ("ready",), ("evidence",)),
    (3, ("greet",), ("introduce",)),
    (5, FINAL, ("escalate",)),
)
#: Of the rows, on top of what is out of stage in `_MIX`: both actions where one is out of stage.
_STAGE_SHARE = 0.3


def _choices() -> list[tuple[float, str, Action]]:
    """Every (weight, situation, action) of the mix and of the stage cases."""
    cases = [c for pair in SWAPS for c in pair if c.defect in ("wrong_stage", "gave_up_price")]
    parts: list[tuple[float, tuple[str, ...], tuple[Action, ...]]] = [
        (_STAGE_SHARE / len(cases), case.situations, (case.right, case.wrong)) for case in cases
    ]
    total = sum(share for share, _, _ in _MIX)
    parts += [
        ((1 - _STAGE_SHARE) * share / total, situations, actions)
        for share, situations, actions in _MIX
    ]
    return [
        (share / len(situations) / len(actions), situation, action)
        for share, situations, actions in parts
        for situation in situations
        for action in actions
    ]


_CHOICES = _choices()


def labelled_replies(split: Split, rng: Random, count: int) -> list[LabelledReply]:
    """`count` different replies of any quality to one prompt, with their labels."""
    _, situation, _ = rng.choices(_CHOICES, [weight for weight, _, _ in _CHOICES])[0]
    fitting = [(weight, action) for weight, where, action in _CHOICES if where == situation]
    turn = turn_in(situation, split, rng)
    made: dict[str, LabelledReply] = {}
    while len(made) < count:
        action = rng.choices([a for _, a in fitting], [weight for weight, _ in fitting])[0]
        reply = compose(turn.state, action, _any_style(action, rng), split, rng)
        made[reply.text] = LabelledReply(
            turn, reply.text, labels(turn.state, reply), turn.families | reply.families
        )
    return list(made.values())


def _any_style(action: Action, rng: Random) -> Style:
    pressure = action in ("ask", "check_in") and rng.random() < 0.25
    reason = not pressure and rng.random() < 0.7
    promise = reason and rng.random() < 0.42
    caution = not (pressure or promise) and rng.random() < 0.2
    return Style(rng.random() < 0.5, reason, promise, caution, pressure)


def labels(state: State, reply: Reply) -> dict[str, bool]:
    """The truth of every criterion of `defects.CRITERIA` for this reply in this state."""
    action, situation = reply.action, state.situation
    settled = {i.ticket for i in state.due_items} | set(state.agreed)
    spoken = {i.ticket for i in reply.items}
    pursuing = action == "ask" and bool(spoken & settled)
    again = situation in ("settled", "agree") and action in ("accept_query", "check_in")
    return {
        "sop_compliance": action in state.spec.actions,
        "emotional_value": reply.style.empathy,
        "persuasion_style": reply.persuades,
        "over_promising": reply.style.promise,
        "repeated_confirmation": again,
        "still_pursuing_price": pursuing,
        "misread_silence": situation in SILENT and action in ("accept", "close"),
    }
