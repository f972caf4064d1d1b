"""Puts the checks together: one reply, one verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from repo_ray.evaluation.gold import deal_checks as deal
from repo_ray.evaluation.gold import persuasion_checks as persuasion
from repo_ray.evaluation.gold.acts import Reply, read_reply
from repo_ray.evaluation.gold.arguments import speaks_of_guests
from repo_ray.evaluation.gold.emergent import emergent_skills
from repo_ray.evaluation.gold.hotelier import HotelierTurn, read_hotelier
from repo_ray.evaluation.gold.number_checks import number_issues
from repo_ray.evaluation.gold.scenario import Scenario, read_scenario
from repo_ray.evaluation.gold.text_checks import in_english, text_issues, words_of
from repo_ray.evaluation.gold.verdict import GoldVerdict, Issue, weigh
from repo_ray.records import Message

#: Characters read of a reply, three times what is much too long already.
_READ = 2400
#: Stages in which a price is still being argued for.
_ARGUING = ("present_evidence", "ask", "handle_objection")


def judge_reply(
    messages: Sequence[Message],
    context: Mapping[str, Any],
    hidden: Mapping[str, Any],
    reply: str,
) -> GoldVerdict:
    """Judges the agent's `reply` to a conversation whose last message is the hotelier's.

    `context` and `hidden` are the JSON objects of the data row. A context that is no negotiation
    (`knows_task`) is judged on its text alone (`scope` is `text`), in another language than English
    on what needs no words of it. Never raises on user data.
    """
    scenario = read_scenario(context, hidden)
    issues = text_issues(reply[:_READ], messages)
    if any(i.id == "empty" for i in issues):
        return weigh(issues, {}, "full" if scenario.items else "text")
    read = read_reply(reply[:_READ], scenario)
    if not scenario.items:
        if in_english(messages):
            issues += persuasion.tone_issues(read)
        return weigh(issues, {"text": _brevity(reply)}, "text")
    hotelier = read_hotelier(messages, scenario.consents)
    issues += number_issues(read, scenario, messages)
    issues += deal.deal_issues(read, scenario, hotelier, messages)
    issues += persuasion.persuasion_issues(read, scenario, hotelier, messages)
    merits = _merits(read, scenario, hotelier)
    issues += _duty_issues(read, scenario, hotelier, merits)
    verdict = weigh(issues, merits, "full")
    return replace(verdict, emergent=emergent_skills(read, scenario, hotelier, verdict))


def _merits(reply: Reply, scenario: Scenario, hotelier: HotelierTurn) -> dict[str, float]:
    """What this turn calls for, and how far the reply gives it, each in [0, 1]."""
    arguing = scenario.stage in _ARGUING and bool(_unmet(scenario))
    arguing = arguing and not deal.settles_all(reply, scenario)
    merits = {"action": _action(reply, scenario, hotelier), "brevity": _brevity(reply.text)}
    if arguing:
        grounds = persuasion.evidence(reply, scenario)
        merits["grounds"] = min(
            1.0, grounds + 0.2 * speaks_of_guests(reply.text, scenario.hotel_type)
        )
        if scenario.stage != "present_evidence":
            merits["clear"] = _clear(reply, scenario)
    unsure = hotelier.stance in ("refuses", "counters", "vague", "silent") and arguing
    answering = scenario.stage == "handle_objection" and arguing
    if unsure or answering or scenario.stage == "escalate":
        merits["heard"] = persuasion.heard(reply, hotelier)
    if scenario.stage == "confirm" or (scenario.pending and not _unmet(scenario)):
        merits["clear"] = _clear(reply, scenario)
    return merits


def _unmet(scenario: Scenario) -> list[str]:
    """Open tickets without a quote at or below the hoped price."""
    return [
        i.ticket
        for i in scenario.pending
        if i.quote is None or i.target is None or i.quote > i.target
    ]


def _action(reply: Reply, scenario: Scenario, hotelier: HotelierTurn) -> float:
    """Whether the reply does what stage and quotes call for; 0.5 for a next-best move."""
    if scenario.stage == "identify":
        pursuing = reply.asks_lower or bool(reply.mentions)
        return 1.0 if deal.identifies(reply) else 0.5 if pursuing else 0.0
    if scenario.stage == "escalate":
        return 1.0 if deal.hands_over(reply) else 0.5 if deal.thanks(reply) else 0.0
    if scenario.stage == "close":
        asked = any(s.act in ("asks", "confirms") for s in reply.sentences)
        closing = deal.thanks(reply) or deal.completes(reply)
        return 0.5 * closing + 0.5 * (closing and not asked)
    per_item = [_item_action(reply, item.ticket, scenario) for item in scenario.pending]
    if not per_item:
        return (
            1.0
            if deal.thanks(reply) or reply.does("accepts", "confirms", "claims_consent")
            else 0.0
        )
    return sum(per_item) / len(per_item)


def _item_action(reply: Reply, ticket: str, scenario: Scenario) -> float:
    item = scenario.item(ticket)
    taken, pushed = deal.accepts(reply, item, scenario), deal.pushes(reply, item, scenario)
    if item.quote is not None and item.target is not None and item.quote <= item.target:
        if deal.asks_for_quote(reply, item, scenario):
            return 0.5
        return 1.0 if taken and not pushed else 0.0
    if item.quote is not None and item.mandate is not None and item.quote <= item.mandate:
        # Taking it is right; one more push is worth as much only while the hotelier has
        # patience and the truth leaves room below the quote.
        if pushed:
            room = item.reservation is None or item.reservation < item.quote
            return 1.0 if room and (scenario.patience is None or scenario.patience > 0) else 0.7
        return 1.0 if taken else 0.0
    if scenario.stage == "present_evidence":
        shown = persuasion.evidence(reply, scenario) >= 0.7
        return 1.0 if shown else 0.5 if pushed else 0.0
    if pushed:
        return 1.0
    if reply.asks_lower or (deal.hands_over(reply) and scenario.patience == 0):
        return 0.5
    return 0.25 if deal.hands_over(reply) else 0.0


def _duty_issues(
    reply: Reply, scenario: Scenario, hotelier: HotelierTurn, merits: Mapping[str, float]
) -> list[Issue]:
    issues = []
    if merits["action"] < 0.5:
        if scenario.stage in _ARGUING and _unmet(scenario):
            issues.append(Issue("price_not_pursued", "major", "no lower price is asked for"))
        else:
            issues.append(
                Issue("stage_action_missing", "major", f"does not do what {scenario.stage!r} asks")
            )
    if merits.get("grounds", 1.0) == 0:
        if scenario.stage in ("present_evidence", "ask"):
            issues.append(Issue("evidence_missing", "minor", "no reason for a lower price"))
        elif scenario.stage == "handle_objection":
            bare = merits.get("heard", 1.0) == 0 or hotelier.wants_reasons
            issues.append(
                Issue(
                    "evidence_missing",
                    "major" if bare else "minor",
                    "no reason for a lower price in answer to an objection",
                )
            )
    if len(words_of(reply.text)) < 4:
        issues.append(Issue("too_thin", "major", "fewer than four words"))
    return issues


def _clear(reply: Reply, scenario: Scenario) -> float:
    """A net amount that is asked for or settled is named."""
    quotes = {i.quote for i in scenario.items}
    named = any(
        not m.difference
        and (m.act in ("asks", "accepts", "confirms", "claims_consent") or m.value in quotes)
        for m in reply.mentions
    )
    return 1.0 if named else 0.5


def _brevity(text: str) -> float:
    """1 for 8 to 55 words, falling to 0 at 0 and at 120."""
    count = len(words_of(text))
    if count < 8:
        return count / 8
    return 1.0 if count <= 55 else max(0.0, 1 - (count - 55) / 65)
