"""Rules about the form of a reply: format, leaks, words, language, length."""

from __future__ import annotations

import json
import re
from collections import Counter

from repo_ray.records import Prompt
from repo_ray.rewards.rules.registry import rule
from repo_ray.rewards.rules.text import ngrams, script, words

_BREAKAGES = {
    "a chat template token": r"<[|｜][^<>]{0,40}[|｜]>|\[/?INST\]|</?s>|<(?:start|end)_of_turn>",
    "a code block": r"```",
    "a heading": r"(?m)^\s{0,3}#{1,6}\s",
    "bold or italic marks": r"\*\*[^*\n]+\*\*|(?<!\w)__[^_\n]+__(?!\w)",
    "a list": r"(?m)^\s*(?:[-*•]|\d{1,2}[.)])\s+\S",
    "a table": r"(?m)^\s*\|.*\|",
    "a link": r"\]\(https?://",
    "a role tag": r"(?mi)^\s*\W{0,3}(?:user|assistant|system|agent|hotelier|manager|bd)\W{0,3}:",
    "a placeholder": r"\[[A-Za-z][A-Za-z _'/-]{1,40}\]|\{\{?[A-Za-z_][\w .-]*\}?\}|<(?:your |hotel |my )?(?:name|hotel|price|room|date|amount|city)>|\bX{2,}\b",
    "JSON": r"\{\s*\"",
    "an HTML tag": r"</?(?:br|p|div|b|i|span|ul|li)\s*/?>",
}
_REASONING = re.compile(
    r"</?think(?:ing)?>|\bas an (?:ai|artificial)\b|\b(?:i am|i'm) an ai\b|\blanguage model\b|\blet me think\b"
    r"|\bstep[- ]by[- ]step\b|\bchain of thought\b|\bmy reasoning\b|\bthe user (?:wants|is asking|said|asks)\b"
    r"|\bi (?:need|should|have) to (?:respond|reply|answer)\b|\bthe (?:system )?prompt\b|\bmy instructions\b"
    r"|^\W*(?:reasoning|thoughts?|analysis|plan)\s*:|\bthe (?:current )?stage is\b|\bfollow the procedure\b"
    r"|\bthe (?:hotelier|manager|customer|client) (?:seems|is|wants|appears|sounds)\b[^.]*\bi (?:should|must|need|will)\b"
    r"|\bhere(?:'s| is) (?:a |my |the )(?:possible |suggested )?(?:reply|response)\b",
    re.IGNORECASE,
)


@rule("format_breakage")
def format_breakage(reply: str, prompt: Prompt) -> str | None:
    """Empty, or something else than plain speech: markup, JSON, role tags, placeholders."""
    if not reply.strip():
        return "the reply is empty"
    if reply.lstrip()[0] in "{[" and _is_json(reply):
        return "the reply is JSON"
    for name, pattern in _BREAKAGES.items():
        if found := re.search(pattern, reply):
            return f"{name}: {found[0].strip()[:40]!r}"
    return None


@rule("leaked_reasoning")
def leaked_reasoning(reply: str, prompt: Prompt) -> str | None:
    """Thinking aloud, or speaking as a language model."""
    found = _REASONING.search(reply.replace("’", "'"))
    return f"reasoning or self-reference: {found[0]!r}" if found else None


@rule("leaked_internal_terms")
def leaked_internal_terms(reply: str, prompt: Prompt, *, terms: list[str]) -> str | None:
    """A term of the agent's own workflow that the other side must not hear."""
    found = _first_term(reply, terms)
    return f"internal term {found!r}" if found else None


@rule("forbidden_words")
def forbidden_words(reply: str, prompt: Prompt, *, terms: list[str]) -> str | None:
    """A word that the agent must not use, whatever the context."""
    found = _first_term(reply, terms)
    return f"forbidden {found!r}" if found else None


@rule("mixed_language")
def mixed_language(
    reply: str, prompt: Prompt, *, expected: str = "auto", max_share: float = 0.02
) -> str | None:
    """More than `max_share` of the letters are not of the expected Unicode script.

    `expected` is a script (`LATIN`, `CJK`, `CYRILLIC`, ...) or `auto`: the most frequent one of
    the conversation.
    """
    letters = Counter(filter(None, map(script, reply)))
    if not letters:
        return None
    if expected == "auto":
        spoken = Counter(s for m in prompt.messages for s in map(script, m.content) if s)
        if not spoken:
            return None
        expected = spoken.most_common(1)[0][0]
    foreign = 1 - letters[expected] / letters.total()
    if foreign <= max_share:
        return None
    return f"{foreign:.0%} of the letters are not {expected}"


@rule("over_long")
def over_long(reply: str, prompt: Prompt, *, max_words: int) -> str | None:
    """More words than people read in a chat."""
    count = len(words(reply))
    return f"{count} words, more than {max_words}" if count > max_words else None


@rule("too_short")
def too_short(reply: str, prompt: Prompt, *, min_words: int) -> str | None:
    """Too few words to be a reply."""
    count = len(words(reply))
    return f"{count} words, fewer than {min_words}" if count < min_words else None


@rule("degenerate_repetition")
def degenerate_repetition(
    reply: str, prompt: Prompt, *, ngram: int = 3, min_distinct: float = 0.7
) -> str | None:
    """Babble: a word four times in a row, or fewer than `min_distinct` of the n-grams distinct."""
    own = words(reply)
    for i in range(len(own) - 3):
        if len(set(own[i : i + 4])) == 1:
            return f"repeats {own[i]!r}"
    grams = ngrams(own, ngram)
    if len(own) >= 12 and len(grams) / grams.total() < min_distinct:
        return f"only {len(grams) / grams.total():.0%} of its {ngram}-word runs are distinct"
    return None


def _first_term(text: str, terms: list[str]) -> str | None:
    return next(
        (t for t in terms if re.search(rf"(?<!\w){re.escape(t)}(?!\w)", text, re.IGNORECASE)), None
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
