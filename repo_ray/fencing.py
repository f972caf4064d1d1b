"""Text of others inside a prompt: kept apart, and unable to act as control.

For prompts that go to an endpoint, whose tokenizer is unknown. `models.chat` does the same for a
tokenizer at hand.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

_CONTROL = re.compile(
    r"<(?=[|｜/A-Za-z_])|\[(?=/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL))", re.IGNORECASE
)


def fence(parts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The mark of the fences, and all (name, text) parts between fences that carry it.

    The mark is a hash of all that stands between them: a text cannot contain its own hash, so it
    cannot close its fence. The same parts give the same mark.
    """
    mark = hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
    fenced = "\n\n".join(
        f"=== {mark} begin {name} ===\n{neutralise(text)}\n=== {mark} end {name} ==="
        for name, text in parts
    )
    return mark, fenced


def neutralise(text: str) -> str:
    """Puts a space into everything that looks like a control token or tag (`<|x|>`, `[INST]`)."""
    return _CONTROL.sub(lambda m: m[0] + " ", text)
