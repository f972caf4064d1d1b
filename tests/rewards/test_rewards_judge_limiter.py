"""The rate limit against a plain recount of every window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from repo_ray.rewards.judge.limiter import WINDOW_S, RateLimiter

WINDOW = 60.0
LIMITS = st.one_of(st.none(), st.integers(1, 5))
TOKEN_LIMITS = st.one_of(st.none(), st.integers(1, 100))
#: Whole seconds, so that the recount is exact: pause before asking, tokens estimated and used.
ASKED = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 150), st.integers(0, 150)), max_size=40
)


def first_start(limiter: RateLimiter, tokens: int, now: float) -> float:
    while (wait := limiter.wait(tokens, now)) > 0:
        now += wait
    return now


@given(LIMITS, TOKEN_LIMITS, ASKED)
def test_no_window_sees_more_than_the_limits(
    requests: int | None, tokens: int | None, asked: list[tuple[int, int, int]]
) -> None:
    limiter = RateLimiter(requests, tokens, WINDOW)
    now = 0.0
    started: list[tuple[float, int]] = []
    for permit, (pause, size, _) in enumerate(asked):
        now = first_start(limiter, size, now + pause)
        limiter.start(permit, size, now)
        started.append((now, size if tokens is None else min(size, tokens)))
    for end, _ in started:  # a window is fullest when it ends with a start
        inside = [n for time, n in started if end - WINDOW < time <= end]
        assert requests is None or len(inside) <= requests
        assert tokens is None or sum(inside) <= tokens


@given(LIMITS, TOKEN_LIMITS, ASKED)
def test_each_start_leaves_room_for_what_is_known_to_be_used(
    requests: int | None, tokens: int | None, asked: list[tuple[int, int, int]]
) -> None:
    """Answers come a request later and say what was really used, be it more or less."""

    def counted(used: int) -> int:
        return used if tokens is None else min(used, tokens)

    limiter = RateLimiter(requests, tokens, WINDOW)
    now = 0.0
    known: dict[int, tuple[float, int]] = {}
    for permit, (pause, size, _) in enumerate(asked):
        now = first_start(limiter, size, now + pause)
        inside = [n for time, n in known.values() if now - WINDOW < time]
        if tokens is not None:
            assert sum(inside) + counted(size) <= tokens
        limiter.start(permit, size, now)
        known[permit] = (now, counted(size))
        if permit:
            used = asked[permit - 1][2]
            limiter.correct(permit - 1, used)
            known[permit - 1] = (known[permit - 1][0], counted(used))


@given(LIMITS, TOKEN_LIMITS, ASKED)
def test_nobody_waits_longer_than_a_window_for_those_before(
    requests: int | None, tokens: int | None, asked: list[tuple[int, int, int]]
) -> None:
    limiter = RateLimiter(requests, tokens, WINDOW)
    now = 0.0
    for permit, (pause, size, _) in enumerate(asked):
        came = now + pause
        now = first_start(limiter, size, came)
        assert now - came <= WINDOW
        limiter.start(permit, size, now)


@given(LIMITS, TOKEN_LIMITS, ASKED)
def test_nobody_waits_without_need(
    requests: int | None, tokens: int | None, asked: list[tuple[int, int, int]]
) -> None:
    """A second earlier the window was too full."""
    limiter = RateLimiter(requests, tokens, WINDOW)
    now = 0.0
    started: list[tuple[float, int]] = []
    for permit, (pause, size, _) in enumerate(asked):
        came = now + pause
        now = first_start(limiter, size, came)
        counted = size if tokens is None else min(size, tokens)
        if now > came:
            before = [n for time, n in started if now - 1 - WINDOW < time]
            full = requests is not None and len(before) >= requests
            assert full or (tokens is not None and sum(before) + counted > tokens)
        limiter.start(permit, size, now)
        started.append((now, counted))


def test_three_a_minute() -> None:
    limiter = RateLimiter(3, None, WINDOW)
    times = []
    now = 0.0
    for permit in range(7):
        now = first_start(limiter, 10, now)
        limiter.start(permit, 10, now)
        times.append(now)
    assert times == [0, 0, 0, 60, 60, 60, 120]


def test_a_correction_makes_room_at_once() -> None:
    limiter = RateLimiter(None, 100, WINDOW)
    limiter.start(1, 80, 0.0)
    assert limiter.wait(50, 1.0) == 59.0
    limiter.correct(1, 50)
    assert limiter.wait(50, 1.0) == 0.0


def test_a_request_over_the_whole_limit_starts_alone() -> None:
    limiter = RateLimiter(None, 100, WINDOW)
    assert limiter.wait(500, 0.0) == 0.0
    limiter.start(1, 500, 0.0)
    assert limiter.wait(1, 10.0) == 50.0


def test_a_minute_is_taken_a_little_long() -> None:
    assert 60 < WINDOW_S < 62
