"""Which gold issues stand for a defect that a data row names.

Defect ids are plain strings of the data set (`issue` of a bad-case dialogue, `defect` of a
preference pair); nothing is imported from the code that makes them.
"""

from __future__ import annotations

from repo_ray.evaluation.gold.verdict import EFFECTIVENESS, FLUENCY, SCOPE, WORKFLOW

GOLD_ISSUES: dict[str, frozenset[str]] = {
    defect: frozenset(issues.split())
    for defect, issues in {
        "wrong_number": "invented_amount wrong_fact_amount ticket_mixup invented_statistic wrong_date price_kind_mixup",
        "invented_number": "invented_amount wrong_fact_amount invented_statistic",
        "price_outside_mandate": "commits_above_mandate asks_above_mandate",
        "selling_net_confusion": "price_kind_mixup wrong_fact_amount",
        "not_accepting_at_target": "acceptance_missed",
        "consent_from_silence": "assumed_consent",
        "ticket_missed": "ticket_left_out",
        "over_promising": "over_promise invented_statistic",
        "blunt_pressure": "pressure",
        "repeated_script": "script_repeat repetition",
        "leaked_internal": "internal_limit_disclosed internal_term reasoning_shown prompt_echo",
        "format_breakage": "markup speaks_for_hotelier placeholder unfinished garbled reasoning_shown",
    }.items()
}

ALL_ISSUES = FLUENCY | WORKFLOW | EFFECTIVENESS | SCOPE


def gold_issues_for(defect: str | None) -> frozenset[str]:
    """Gold issue ids that show the defect; every id for a defect that this table does not know."""
    return GOLD_ISSUES.get(defect or "", ALL_ISSUES)
