"""Rules about the course of the dialogue: consent, tickets, repetition."""

from __future__ import annotations

import re

from repo_ray.records import Prompt
from repo_ray.rewards.rules.acts import accepts, claims_consent, closes, is_vague
from repo_ray.rewards.rules.facts import facts
from repo_ray.rewards.rules.registry import rule
from repo_ray.rewards.rules.text import amounts, ngrams, sentences, words

_ALL_OF_THEM = re.compile(
    r"\b(?:both|all (?:of )?(?:the |these |your |our )?(?:two |three |four |\d )?"
    r"(?:rooms?|types?|tickets|prices|rates|items))\b",
    re.IGNORECASE,
)


@rule("consent_from_silence")
def consent_from_silence(reply: str, prompt: Prompt) -> str | None:
    """The hotelier's last message is silent or vague and the reply treats it as agreement.

    Accepting a price that the hotelier quoted earlier is no such thing.
    """
    known = facts(prompt)
    if known is None or not prompt.messages or prompt.messages[-1].role != "user":
        return None
    if not is_vague(prompt.messages[-1].content):
        return None
    if not known.open_items:
        return None
    quoted = any(item.quote is not None for item in known.open_items)
    for sentence in sentences(reply):
        takes_as_agreed = accepts(sentence) or closes(sentence)
        if claims_consent(sentence) or (takes_as_agreed and not quoted):
            return f"no agreement was given, yet: {sentence!r}"
    return None


@rule("ticket_missed")
def ticket_missed(reply: str, prompt: Prompt, *, stages: list[str]) -> str | None:
    """Passes over an open ticket, where there are several tickets.

    Applies where the reply deals with some open tickets and not with others, and where it deals
    with none in one of these SOP stages or while declaring everything settled. A ticket is named
    by its id, its room type, its quote or target price, or by "both" or "all rooms".
    """
    known = facts(prompt)
    if known is None or len(known.items) < 2 or _ALL_OF_THEM.search(reply):
        return None
    said = {a.value for a in amounts(reply)}
    missed = [
        item.ticket
        for item in known.open_items
        if not item.named_in(reply) and not said & {item.quote, item.target_price}
    ]
    some = 0 < len(missed) < len(known.open_items)
    due = known.stage in stages or any(closes(s) for s in sentences(reply))
    return f"says nothing of {', '.join(missed)}" if missed and (some or due) else None


@rule("repeated_script")
def repeated_script(
    reply: str, prompt: Prompt, *, ngram: int = 4, max_overlap: float = 0.8
) -> str | None:
    """More than `max_overlap` of the reply's word n-grams are in one of the agent's earlier replies."""
    own = words(reply)
    for message in prompt.messages:
        if message.role != "assistant":
            continue
        earlier = words(message.content)
        if own and own == earlier:
            return "the same words as an earlier reply"
        grams = ngrams(own, ngram)
        shared = (grams & ngrams(earlier, ngram)).total()
        if grams and shared / grams.total() > max_overlap:
            return f"{shared / grams.total():.0%} of it is in an earlier reply"
    return None
