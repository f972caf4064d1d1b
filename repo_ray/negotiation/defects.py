"""What can be wrong with a reply, and the judge's criteria: the one list of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["minor", "major", "severe"]


@dataclass(frozen=True, slots=True)
class Defect:
    """A labelled flaw.

    `contextual` flaws are invisible in the reply's words alone: the same reply, or the same one
    with another number, is good in another context.
    """

    id: str
    severity: Severity
    contextual: bool
    definition: str


DEFECTS: dict[str, Defect] = {
    d.id: d
    for d in (
        Defect(
            "wrong_number",
            "major",
            True,
            "A price of another fact or ticket is stated as this one.",
        ),
        Defect("invented_number", "major", True, "A stated price is in none of the facts."),
        Defect(
            "selling_net_confusion",
            "major",
            True,
            "Net and selling price are taken for each other.",
        ),
        Defect(
            "price_outside_mandate",
            "severe",
            True,
            "Accepts or offers a net price over the mandate.",
        ),
        Defect("wrong_stage", "major", True, "Does what belongs to another SOP stage."),
        Defect(
            "not_accepting_at_target",
            "major",
            True,
            "Bargains on although the quote is at or below target.",
        ),
        Defect(
            "consent_from_silence", "severe", True, "Records a price although nothing was agreed."
        ),
        Defect(
            "misread_silence", "major", True, "Closes as if silence or a vague answer were a yes."
        ),
        Defect("ticket_missed", "major", True, "Says nothing of a ticket that is still open."),
        Defect("repeated_confirmation", "minor", True, "Asks again what is already agreed."),
        Defect("gave_up_price", "major", True, "Stops asking although nothing final was said."),
        Defect(
            "still_pushing_after_accept",
            "major",
            True,
            "Asks for less on a ticket that is settled.",
        ),
        Defect("repeated_script", "minor", True, "Repeats the agent's own earlier message."),
        Defect("over_promising", "severe", False, "Promises what nobody can guarantee."),
        Defect("blunt_pressure", "severe", False, "Orders, threatens or blames."),
        Defect("no_empathy", "minor", False, "Passes over the hotelier's situation."),
        Defect("bare_demand", "minor", False, "Asks for a price without any reason."),
        Defect("leaked_internal", "severe", False, "Reveals work order, target price or mandate."),
        Defect("leaked_reasoning", "severe", False, "Speaks the agent's own reasoning aloud."),
        Defect("mixed_language", "major", False, "Changes the language within the reply."),
        Defect(
            "format_breakage", "major", False, "Markup, JSON or a speaker label around the reply."
        ),
        Defect("over_long", "minor", False, "Far longer than a chat message should be."),
    )
}

#: The judge's criteria; each statement is true or false of a reply in its context.
CRITERIA: dict[str, str] = {
    "sop_compliance": "The reply does what the current SOP stage asks for.",
    "emotional_value": "The reply acknowledges the hotelier's situation or feeling.",
    "persuasion_style": "The reply gives a reason or evidence and puts no pressure.",
    "over_promising": "The reply promises what the agent cannot guarantee.",
    "repeated_confirmation": "The reply asks again to confirm what is already settled.",
    "still_pursuing_price": "The reply asks for a lower price although the price is settled or at or below target.",
    "misread_silence": "The reply treats silence or a vague answer as agreement.",
}
