"""At most so many requests and tokens in any minute."""

from __future__ import annotations

#: A minute and a second: on their way to the server requests may move closer together.
WINDOW_S = 61.0


class RateLimiter:
    """A sliding window over what was started. Times are seconds and never decrease.

    At time t a request of n tokens may start if, of the requests started in (t - window, t], there
    are fewer than `requests`, and the tokens counted for them leave room for n under `tokens`.
    So whatever window [a, a + window) is looked at, no more than the limits started in it. A
    request counts as estimated until `correct` says what it used; one that is larger than the whole
    limit counts as the limit, and starts alone. None: no such limit.
    """

    def __init__(
        self, requests: int | None, tokens: int | None, window_s: float = WINDOW_S
    ) -> None:
        self._requests = requests
        self._tokens = tokens
        self._window_s = window_s
        #: Permit -> time at which it leaves the window, and tokens; oldest first.
        self._recent: dict[int, tuple[float, int]] = {}

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until a request of so many tokens may start if nothing is corrected; 0: now."""
        while self._recent and next(iter(self._recent.values()))[0] <= now:
            del self._recent[next(iter(self._recent))]
        recent = list(self._recent.values())
        free_at = now
        if self._requests is not None and len(recent) >= self._requests:
            free_at = recent[len(recent) - self._requests][0]
        if self._tokens is not None:
            excess = sum(used for _, used in recent) + self._counted(tokens) - self._tokens
            for leaves, used in recent:
                if excess <= 0:
                    break
                excess -= used
                free_at = max(free_at, leaves)
        return free_at - now

    def start(self, permit: int, tokens: int, now: float) -> None:
        """Counts a request, whether or not it had to wait."""
        self._recent[permit] = (now + self._window_s, self._counted(tokens))

    def correct(self, permit: int, tokens: int) -> None:
        """What the request really used; nothing if it has left the window."""
        if permit in self._recent:
            self._recent[permit] = (self._recent[permit][0], self._counted(tokens))

    def _counted(self, tokens: int) -> int:
        return tokens if self._tokens is None else min(tokens, self._tokens)
