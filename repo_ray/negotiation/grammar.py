"""Phrase banks and the small grammar of their templates.

`[a|b]` is an alternative and `{slot}` a value. A number is written `<kind:ticket>` in a draft
until it is filled, so that one draft can be filled with right and with wrong numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Literal

import yaml

Split = Literal["train", "heldout"]

_ALTERNATIVE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
_NUMBER = re.compile(r"<([a-z]+:T\d)>")
_FILLERS = ("well, ", "look, ", "hmm, ", "eh ", "listen, ", "haha ", "honestly ")
_SHORTHAND = {"you": "u", "your": "ur", "please": "pls", "because": "bc", "people": "ppl"}


@dataclass(frozen=True, slots=True)
class Draft:
    """Text whose numbers are still named, and the template families it came from."""

    text: str
    families: frozenset[str]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Keys such as `competitor:T1`, in order of first appearance."""
        return tuple(dict.fromkeys(_NUMBER.findall(self.text)))

    def fill(self, numbers: Mapping[str, int]) -> str:
        """The text with its numbers. Raises KeyError for a number that is not given."""
        return _NUMBER.sub(lambda found: str(numbers[found[1]]), self.text)


@cache
def bank(name: str) -> dict[str, dict[str, dict[str, tuple[str, ...]]]]:
    """The bank `phrases/<name>.yaml`: kind -> split -> family -> templates."""
    text = (files("repo_ray.negotiation") / "phrases" / f"{name}.yaml").read_text(encoding="utf-8")
    return {
        kind: {
            split: {family: tuple(templates) for family, templates in families.items()}
            for split, families in splits.items()
        }
        for kind, splits in yaml.safe_load(text).items()
    }


def draw(
    name: str, kind: str, split: Split, rng: Random, slots: Mapping[str, str] | None = None
) -> Draft:
    """One phrase of `kind` from the families of `split`."""
    families = bank(name)[kind][split]
    family = rng.choice(sorted(families))
    text = rng.choice(families[family])
    text = _ALTERNATIVE.sub(lambda found: rng.choice(found[1].split("|")), text)
    return Draft(text.format(**(slots or {})), frozenset({f"{name}/{kind}/{family}"}))


def join(parts: list[Draft]) -> Draft:
    """The parts one after the other, each starting with a capital after a full stop."""
    text = ""
    for part in parts:
        start = part.text if text.endswith((",", ":")) else _capital(part.text)
        if text.endswith((",", ":")) and start[1:2].islower():
            start = start[0].lower() + start[1:]
        text = f"{text} {start}" if text else start
    return Draft(text, frozenset().union(*(p.families for p in parts)))


def colloquial(text: str, rng: Random) -> str:
    """The message as it might be typed: lower case, fillers, shorthand, slips. Keeps digits."""
    if len(text) < 8 or rng.random() < 0.35:
        return text
    changes: list[Callable[[str], str]] = [
        str.lower,
        lambda t: t.rstrip("."),
        lambda t: rng.choice(_FILLERS) + t,
        lambda t: " ".join(_SHORTHAND.get(w.lower(), w) for w in t.split(" ")),
        lambda t: _slip(t, rng),
        lambda t: t + rng.choice(("..", "!", " ok", " haha", "")),
    ]
    for change in rng.sample(changes, rng.choice((1, 1, 2))):
        text = change(text)
    return text


def _slip(text: str, rng: Random) -> str:
    """Two neighbouring letters of a longer word change places."""
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w.islower()]
    if not long:
        return text
    at = rng.choice(long)
    word = words[at]
    cut = rng.randrange(1, len(word) - 2)
    words[at] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    return " ".join(words)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
