"""What limits an endpoint judge's requests and remembers their answers.

One budget serves all judges of a run: they ask it before each request and tell it after. It is
plain asyncio, so that it works inside a Ray actor and without Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from repo_ray.config.rewards import JudgeConfig
from repo_ray.records import Score
from repo_ray.rewards.judge.cache import ScoreCache
from repo_ray.rewards.judge.limiter import WINDOW_S, RateLimiter
from repo_ray.rewards.judge.spending import Need, SpendMeter, Usage, cost

#: A request that was not reported this long after its time limit is lost with its judge.
LEASE_MARGIN_S = 30.0

#: Causes of `BudgetError`, and of the scores that it makes invalid: no further score can be had.
SPEND_LIMIT, BUDGET_LOST = "spend_limit", "budget_lost"
FINAL = (SPEND_LIMIT, BUDGET_LOST)


class BudgetError(RuntimeError):
    """No further request may be made. `cause` is `spend_limit`, or `budget_lost` where nobody
    can say any more what was spent."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(f"{cause}: {message}")
        self.cause, self.message = cause, message


class Budget(Protocol):
    """What a judge asks before, and tells after, each request."""

    async def cached(self, key: str) -> Score | None:
        """The score of the same question, if it was asked before and scores are kept."""
        ...

    async def admit(self, need: Need, queue: bool = True) -> int:
        """Returns a permit when the request may go out, in the order of asking.

        Without `queue` it counts, but waits for no rate limit: an actor that starts must not
        stand in line behind the work of all others. Raises `BudgetError`.
        """
        ...

    async def settle(self, permit: int, used: Usage | None) -> None:
        """The request is over. None: nobody knows what it used, so it counts at its most."""
        ...

    async def keep(self, key: str, score: Score) -> None:
        """Remembers a valid score, if scores are kept."""
        ...


@dataclass
class Totals:
    """Since the run began, resumes included. `unmeasured` requests have no usage that anybody
    knows (lost, timed out, or the server does not say) and count at their most."""

    requests: int = 0
    unmeasured: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_hits: int = 0
    waited_s: float = 0.0
    spent: float = 0.0


@dataclass(frozen=True)
class _Open:
    need: Need
    lost_at: float


class JudgeBudget:
    """The budget of one `JudgeConfig`: `Budget` for judges in the same process."""

    def __init__(
        self,
        config: JudgeConfig,
        totals: Totals | None = None,
        scores: Iterable[tuple[str, Score]] = (),
        window_s: float = WINDOW_S,
    ) -> None:
        """`totals` and `scores`: what an earlier part of the run left."""
        self._config = config
        self._totals = replace(totals) if totals else Totals()
        self._meter = SpendMeter(config.max_spend, self._totals.spent)
        limits = (config.requests_per_minute, config.tokens_per_minute)
        self._limiter = RateLimiter(*limits, window_s=window_s)
        self._cache = ScoreCache()
        for key, score in scores:
            self._cache.put(key, score)
        self._new: list[tuple[str, Score]] = []
        self._open: dict[int, _Open] = {}
        self._permits = 0
        #: asyncio's lock is fair: the first to ask is the first to go, and only it waits below.
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()

    async def cached(self, key: str) -> Score | None:
        score = self._cache.get(key) if self._config.cache else None
        self._totals.cache_hits += score is not None
        return score

    async def keep(self, key: str, score: Score) -> None:
        if self._config.cache and score.valid:
            self._cache.put(key, score)
            self._new.append((key, score))

    async def admit(self, need: Need, queue: bool = True) -> int:
        if not queue:
            if not self._meter.fits(self._cost(need.most)):
                raise self._overspent()
            return self._start(need)
        asked = time.monotonic()
        async with self._turn:
            while (wait := self._wait(need)) > 0:
                self._settled.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._settled.wait(), wait)
            self._totals.waited_s += time.monotonic() - asked
            return self._start(need)

    async def settle(self, permit: int, used: Usage | None) -> None:
        if permit in self._open:  # else it came after its lease, and is counted
            self._close(permit, used)

    def totals(self) -> Totals:
        """What requests under way may cost at most is in `spent`: they may have been billed."""
        return replace(self._totals, spent=self._meter.committed)

    def take_new(self) -> list[tuple[str, Score]]:
        """Scores kept since the last call."""
        new, self._new = self._new, []
        return new

    def _wait(self, need: Need) -> float:
        """Seconds for which the request must wait, unless another is settled first; 0: it may go.

        Raises `BudgetError` where the limit leaves no room for it and no request under way could
        turn out cheaper than it may be.
        """
        now = time.monotonic()
        for permit in [p for p, request in self._open.items() if request.lost_at <= now]:
            self._close(permit, None)
        if self._meter.fits(self._cost(need.most)):
            return self._limiter.wait(need.tokens, now)
        if not self._open:
            raise self._overspent()
        return min(request.lost_at for request in self._open.values()) - now

    def _start(self, need: Need) -> int:
        now = time.monotonic()
        self._permits += 1
        self._totals.requests += 1
        self._limiter.start(self._permits, need.tokens, now)
        self._meter.reserve(self._permits, self._cost(need.most))
        lost_at = now + self._config.request_timeout_s + LEASE_MARGIN_S
        self._open[self._permits] = _Open(need, lost_at)
        return self._permits

    def _close(self, permit: int, used: Usage | None) -> None:
        need = self._open.pop(permit).need
        counted = need.most if used is None else used
        if used is None:
            self._totals.unmeasured += 1
        elif used.total:  # servers count refused requests too
            self._limiter.correct(permit, used.total)
        self._totals.input_tokens += counted.input_tokens
        self._totals.output_tokens += counted.output_tokens
        self._meter.settle(permit, self._cost(counted))
        self._settled.set()

    def _cost(self, used: Usage) -> float:
        return cost(used, self._config)

    def _overspent(self) -> BudgetError:
        return BudgetError(
            SPEND_LIMIT,
            f"{self._meter.committed:.6g} of judge.max_spend {self._config.max_spend} is spent, after "
            f"{self._totals.requests} requests; the rest may not cover another",
        )
