"""The roster against going through all members each time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from repo_ray.actors.roster import Member, Roster, State

NOTHING: Any = None
SLOTS = 3


def reference(members: list[Member]) -> tuple[Member | None, int, int, int]:
    """The least loaded, and how many are able, busy, and have calls."""
    free = [m for m in members if m.state == "ready" and m.in_flight < SLOTS]
    able = [m for m in members if m.state in ("ready", "draining")]
    return (
        min(free, key=lambda m: m.in_flight, default=None),
        len(able),
        sum(m.in_flight > 0 for m in able),
        sum(m.in_flight for m in able),
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_says_what_a_look_at_every_member_says(seed: int) -> None:
    rng = random.Random(seed)
    roster, alive = Roster(SLOTS), []
    gone: list[Member] = []
    for step in range(3000):
        what = rng.random()
        if what < 0.02 or not alive:
            member = Member(f"m{step}", NOTHING, NOTHING)
            roster.add(member)
            alive.append(member)
        elif what < 0.06:
            member = rng.choice(alive)
            states: list[State] = ["ready", "draining", "dead"]
            state = states[0] if member.state == "starting" else rng.choice(states[1:])
            roster.enter(member, state)
            if state == "dead":
                alive.remove(member)
                gone.append(member)
        elif what < 0.6:
            least = roster.least_loaded()
            if least is not None:
                roster.take(least)
        else:
            loaded = [m for m in [*alive, *gone] if m.in_flight]
            if loaded:
                roster.give(rng.choice(loaded))  # a dead member's calls end as well
        assert (roster.least_loaded(), roster.able, roster.busy, roster.calls) == reference(alive)
        assert list(roster.all) == alive
    assert len(gone) > 10


def test_what_it_remembers_does_not_grow_with_the_calls() -> None:
    roster = Roster(SLOTS)
    for i in range(4):
        roster.add(Member(f"m{i}", NOTHING, NOTHING))
        roster.enter(roster.all[i], "ready")
    for _ in range(10_000):
        least = roster.least_loaded()
        assert least is not None
        roster.take(least)
        roster.give(least)
    assert len(roster._open) <= 4 * 4 + 64 + 1
