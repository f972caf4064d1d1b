"""What the gold evaluator says of one reply, and how findings become a score and a rating."""

# ruff: noqa: SIM905 (word lists read better as text)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["minor", "major", "severe"]
Scope = Literal["full", "text"]

#: What is left of the score after one issue of that severity.
KEPT: Mapping[Severity, float] = {"minor": 0.88, "major": 0.5, "severe": 0.15}

#: Issues by the skill that they refute; the paper's four binary skills.
FLUENCY = frozenset(
    "empty garbled repetition unfinished foreign_script markup speaks_for_hotelier "
    "placeholder reasoning_shown addresses_judge prompt_echo hotelier_echo keyword_list over_long".split()
)
WORKFLOW = frozenset(
    "commits_above_mandate asks_above_mandate assumed_consent acceptance_missed "
    "reopened_settled stage_action_missing ticket_left_out internal_limit_disclosed "
    "internal_term over_promise reasoning_shown addresses_judge keeps_pushing".split()
)
EFFECTIVENESS = frozenset(
    "price_not_pursued acceptance_missed commits_above_mandate bids_over_quote pressure "
    "evidence_missing objection_unheard script_repeat too_thin flattery false_comparison "
    "asks_above_mandate unreachable_ask keeps_pushing".split()
)
SCOPE = frozenset(
    "invented_amount wrong_fact_amount price_kind_mixup ticket_mixup false_comparison "
    "invented_statistic wrong_date assumed_consent type_mismatch ticket_left_out "
    "hotelier_echo prompt_echo addresses_judge unsourced_claim".split()
)


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding, with the words of the reply or the facts that show it."""

    id: str
    severity: Severity
    reason: str


@dataclass(frozen=True, slots=True)
class Skills:
    """The paper's four binary skills."""

    fluency: bool
    workflow_compliance: bool
    negotiation_effectiveness: bool
    scope_understanding: bool


@dataclass(frozen=True, slots=True)
class Emergent:
    """The skills that the paper sees emerge in training; None where a turn gives no occasion.

    `emotional_value`: acknowledges the concern of the hotelier's last message and names its cause.
    `hotel_type_fit`: argues with the guests that this type of hotel has.
    `limited_information`: asks with a sound argument although there is little evidence: no
    competitor price, one hardly below the selling price, or one that the hotelier contests.
    """

    emotional_value: bool | None = None
    hotel_type_fit: bool | None = None
    limited_information: bool | None = None


@dataclass(frozen=True, slots=True)
class GoldVerdict:
    """`score` in [0, 1] for curves, `rating` 1-5, `excellent` as in the paper's share.

    `scope` is `text` when the row had no negotiation context: then only the text was checked,
    and no reply can be excellent.
    """

    issues: tuple[Issue, ...]
    skills: Skills
    score: float
    rating: int
    excellent: bool
    scope: Scope
    merits: Mapping[str, float]
    emergent: Emergent = Emergent()

    def worst(self, ids: frozenset[str] | None = None) -> Severity | None:
        """The highest severity among all issues, or among those in `ids`."""
        found = {i.severity for i in self.issues if ids is None or i.id in ids}
        order: tuple[Severity, ...] = ("severe", "major", "minor")
        return next((s for s in order if s in found), None)


def weigh(issues: Sequence[Issue], merits: Mapping[str, float], scope: Scope) -> GoldVerdict:
    """Score = mean of the merits, times what each issue leaves of it.

    `merits` are in [0, 1], one per thing that this turn called for (the stage's action, right
    evidence, an answer to the objection, a clear amount). Rating: 1 severe issue, or two major
    ones with broken language; 2 two major or broken language; 3 one major, or merits below
    one half; 5 excellent; 4 the rest.
    """
    unique = tuple({(i.id, i.severity): i for i in issues}.values())
    majors = [i for i in unique if i.severity == "major"]
    severe = [i for i in unique if i.severity == "severe"]
    serious = {i.id for i in (*majors, *severe)}
    fluent = not serious & FLUENCY
    effective_merit = merits.get("action", 1.0) >= 0.5
    skills = Skills(
        fluency=fluent,
        workflow_compliance=fluent and not serious & WORKFLOW,
        negotiation_effectiveness=fluent and effective_merit and not serious & EFFECTIVENESS,
        scope_understanding=fluent and not serious & SCOPE,
    )
    merit = sum(merits.values()) / len(merits) if merits else 0.0
    score = merit
    for issue in unique:
        score *= KEPT[issue.severity]
    all_skills = all(
        (
            skills.fluency,
            skills.workflow_compliance,
            skills.negotiation_effectiveness,
            skills.scope_understanding,
        )
    )
    excellent = scope == "full" and not unique and all_skills and merit >= 0.85
    if severe or (len(majors) >= 2 and not fluent):
        rating = 1
    elif len(majors) >= 2 or not fluent:
        rating = 2
    elif majors or merit < 0.5:
        rating = 3
    else:
        rating = 5 if excellent else 4
    return GoldVerdict(unique, skills, score, rating, excellent, scope, dict(merits))
