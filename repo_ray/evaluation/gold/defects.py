"""Which gold issues stand for a defect that a data row names.

Defect ids are plain strings of the data set (`issue` of a bad-case dialogue, `defect` of a
preference pair); nothing is imported from the code that makes them.
"""

from __future__ import annotations

GOLD_ISSUES: dict[str, frozenset[str]] = {
    defect: frozenset(issues.split())
    for defect, issues in {
        "wrong_number": "invented_amount wrong_fact_amount ticket_mixup price_kind_mixup unsourced_claim "
        "invented_statistic wrong_date false_comparison unreachable_ask asks_above_mandate "
        "commits_above_mandate assumed_consent bids_over_quote",
        "invented_number": "invented_amount wrong_fact_amount invented_statistic unsourced_claim unreachable_ask "
        "asks_above_mandate commits_above_mandate assumed_consent bids_over_quote",
        "selling_net_confusion": "price_kind_mixup wrong_fact_amount",
        "price_outside_mandate": "commits_above_mandate asks_above_mandate",
        "wrong_stage": "stage_action_missing price_not_pursued assumed_consent reopened_settled keeps_pushing",
        "not_accepting_at_target": "acceptance_missed",
        "consent_from_silence": "assumed_consent",
        "misread_silence": "assumed_consent price_not_pursued stage_action_missing",
        "ticket_missed": "ticket_left_out",
        "repeated_confirmation": "reconfirms_settled reopened_settled",
        "gave_up_price": "price_not_pursued stage_action_missing",
        "still_pushing_after_accept": "reopened_settled acceptance_missed",
        "repeated_script": "script_repeat repetition",
        "over_promising": "over_promise invented_statistic unsourced_claim",
        "blunt_pressure": "pressure",
        "no_empathy": "objection_unheard pressure",
        "bare_demand": "evidence_missing pressure",
        "leaked_internal": "internal_limit_disclosed internal_term prompt_echo",
        "leaked_reasoning": "reasoning_shown",
        "mixed_language": "foreign_script",
        "format_breakage": "markup speaks_for_hotelier placeholder unfinished garbled "
        "reasoning_shown",
        "over_long": "over_long repetition",
    }.items()
}


def shows_defect(defect: str | None, issue: str, severity: str) -> bool:
    """Whether a finding is the defect that a row names.

    For a defect that the table does not know, any major or severe finding is.
    """
    known = GOLD_ISSUES.get(defect or "")
    return issue in known if known is not None else severity in ("major", "severe")
