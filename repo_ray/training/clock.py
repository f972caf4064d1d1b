"""Where the controller's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

#: Waiting for replies and their scores, for the learner, for the engines to take the adapter, for
#: the check on held-out prompts, and for a checkpoint.
Phase = Literal["collect", "update", "push", "check", "checkpoint"]


class PhaseClock:
    """Seconds that the controller spent in each phase; it is in one at a time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.phase: Phase = "collect"
        self._now = now
        self._since = now()
        self._before: dict[str, float] = {}

    def enter(self, phase: Phase) -> None:
        self._before = self.seconds()
        self._since = self._now()
        self.phase = phase

    def seconds(self) -> dict[str, float]:
        """By phase, up to this moment."""
        present = self._before.get(self.phase, 0.0) + self._now() - self._since
        return {**self._before, self.phase: present}
