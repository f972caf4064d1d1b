"""The stages of the standard operating procedure (SOP) and what the agent does in each."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where the negotiation stands; the value is the `stage` of the context JSON."""

    IDENTIFY = "identify"
    PRESENT_EVIDENCE = "present_evidence"
    ASK = "ask"
    HANDLE_OBJECTION = "handle_objection"
    CONFIRM = "confirm"
    CLOSE = "close"
    ESCALATE = "escalate"

    @property
    def definition(self) -> str:
        """One line: what the agent does in this stage."""
        return _DEFINITIONS[self]


_DEFINITIONS = {
    Stage.IDENTIFY: "Say who calls and find the person who decides on prices.",
    Stage.PRESENT_EVIDENCE: "Show how each room's price compares with other platforms, before asking for anything.",
    Stage.ASK: "Ask for a definite net price for every open ticket; silence or a vague answer is not consent.",
    Stage.HANDLE_OBJECTION: "Take up the objection or the too-high quote, give a fitting reason, ask again.",
    Stage.CONFIRM: "Accept an acceptable quote at once, naming ticket and net price, and ask for what is still open.",
    Stage.CLOSE: "All tickets are settled: say what happens next, without asking or confirming again.",
    Stage.ESCALATE: "The hotelier refuses for good, is hostile or cannot decide: stop asking and hand over politely.",
}
