"""Attempts that judges learn from are others than those that they are measured with."""

from __future__ import annotations

import re
from random import Random

from repo_ray.rewards.judge.injections import ATTEMPTS, injected, made_up, sentences

REPLY = "No rush, I see. We accept 316 for T1. Thank you."


def runs_of_words(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return set(zip(*(words[i:] for i in range(n)), strict=False))


def test_what_is_learned_from_shares_no_wording_with_the_suite() -> None:
    rng = Random(0)
    made = [made_up("", ["over_promising"], rng)[0] for _ in range(10_000)]
    learned = set().union(*(runs_of_words(text, 4) for text in made))
    measured = set().union(*(runs_of_words(text, 4) for text in ATTEMPTS))
    assert len(set(made)) > 1000
    assert learned & measured == set()


def test_the_attempt_is_where_it_is_said_to_be_and_the_reply_around_it() -> None:
    rng = Random(1)
    places = set()
    for _ in range(300):
        text, attempt = made_up(REPLY, ["a", "b"], rng)
        rest = f"{text[: attempt.start]} {text[attempt.stop :]}"
        assert " ".join(rest.split()) == REPLY
        assert text[attempt.start : attempt.stop].strip()
        places.add(len(sentences(text[: attempt.start])) if attempt.start else 0)
    assert len(places) >= 3


def test_the_suite_goes_through_the_replies() -> None:
    texts = injected([REPLY] * len(ATTEMPTS), "{}")
    assert len(set(texts)) == len(ATTEMPTS)
    assert all(text.startswith(REPLY) for text in texts)
