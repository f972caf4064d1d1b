"""The evaluation dialogues: ordinary ones, curated bad cases, and a set for tuning."""

from __future__ import annotations

from random import Random

from repo_ray.negotiation.dialogue import Turn, full_path, play
from repo_ray.negotiation.grammar import Split
from repo_ray.negotiation.scenarios import generate_scenario

TURNS = 5

#: Known failure -> (number of tickets, path that provokes it).
BAD_CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "consent_from_silence": (1, ("interest", "silence", "cost", "silence", "vague")),
    "misread_silence": (1, ("ready", "interest", "vague", "why", "silence")),
    "over_promising": (1, ("ready", "interest", "guarantee", "guarantee", "quote_high")),
    "leaked_internal": (1, ("ready", "interest", "probe", "probe", "quote_high")),
    "wrong_number": (2, ("ready", "misquote", "interest", "misquote", "quote_high")),
    "selling_net_confusion": (1, ("ready", "interest", "net_confused", "cost", "net_confused")),
    "price_outside_mandate": (1, ("interest", "quote_high", "cost", "quote_high", "refuse")),
    "not_accepting_at_target": (1, ("ready", "interest", "why", "quote_low", "settled")),
    "still_pushing_after_accept": (1, ("interest", "agree", "settled", "settled", "settled")),
    "repeated_confirmation": (2, ("interest", "quote_low", "settled", "settled", "settled")),
    "no_empathy": (1, ("ready", "squeeze", "cost", "commission", "hostile")),
    "blunt_pressure": (1, ("ready", "why", "squeeze", "full", "quote_high")),
    "repeated_script": (1, ("interest", "why", "doubt", "season", "silence")),
    "ticket_missed": (2, ("interest", "agree", "interest", "why", "agree")),
    "mixed_language": (1, ("ready", "foreign", "interest", "foreign", "quote_high")),
}
_PARTIAL = frozenset({"ticket_missed"})


def online_dialogue(split: Split, rng: Random) -> list[Turn]:
    """A dialogue of `TURNS` turns with the mixture of intents of ordinary work."""
    path = full_path(rng, TURNS)
    return play(generate_scenario(rng), path, split, rng, partial=rng.random() < 0.3)


def bad_case_dialogue(issue: str, split: Split, rng: Random) -> list[Turn]:
    """A dialogue whose hotelier provokes `issue`, again and again."""
    tickets, path = BAD_CASES[issue]
    return play(generate_scenario(rng, tickets), path, split, rng, partial=issue in _PARTIAL)
