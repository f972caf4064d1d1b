"""Who is in a pool and how loaded each is. Pure: what it is asked costs the same for any number.

The pool asks for the least loaded actor and for totals at every call it hands out and gets back.
Going through all actors each time would make a call cost more the more actors there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from repo_ray.actors.line import Line

State = Literal["starting", "ready", "draining", "dead"]
#: Actors that work, or may.
_ABLE = ("ready", "draining")


@dataclass(eq=False)
class Member:
    """One actor of a pool; `line` carries its calls. The roster sets what comes after.

    `handle` is Ray's, or what stands for one (`members.Spawn`).
    """

    name: str
    handle: Any
    line: Line
    state: State = "starting"
    in_flight: int = 0
    index: int = field(default=-1, repr=False)


class Roster:
    """The actors of a pool that are not dead, each with at most `slots` calls in flight.

    `able` of them are ready or draining, `busy` of those have a call, `calls` in all.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._all: dict[int, Member] = {}
        self._added = 0
        # (calls in flight, index): one entry for each time that a member had a slot to give. Those
        # that no longer say the truth are passed over.
        self._open: list[tuple[int, int]] = []
        self.able = self.busy = self.calls = 0

    @property
    def all(self) -> Sequence[Member]:
        """In the order in which they were added."""
        return list(self._all.values())

    def count(self, *states: State) -> int:
        """How many are in one of these states."""
        return sum(m.state in states for m in self._all.values())

    def add(self, member: Member) -> None:
        member.index, self._added = self._added, self._added + 1
        self._all[member.index] = member

    def enter(self, member: Member, state: State) -> None:
        """The member is in another state from now on; with "dead" it leaves."""
        self._change(member, state, member.in_flight)
        if state == "dead":
            self._all.pop(member.index, None)

    def take(self, member: Member) -> None:
        """One more call is with the member."""
        self._change(member, member.state, member.in_flight + 1)

    def give(self, member: Member) -> None:
        """One call is no longer with the member."""
        self._change(member, member.state, member.in_flight - 1)

    def least_loaded(self) -> Member | None:
        """The ready member with the fewest calls, of equals the first added; None if no slot is
        free."""
        while self._open:
            calls, index = self._open[0]
            member = self._all.get(index)
            if member is not None and member.state == "ready" and member.in_flight == calls:
                return member
            heapq.heappop(self._open)
        return None

    def _change(self, member: Member, state: State, in_flight: int) -> None:
        self._count(member, -1)
        member.state, member.in_flight = state, in_flight
        self._count(member, 1)
        if state == "ready" and in_flight < self._slots:
            heapq.heappush(self._open, (in_flight, member.index))
            if len(self._open) > 4 * len(self._all) + 64:  # mostly entries of the past
                self._open = [
                    (m.in_flight, m.index)
                    for m in self._all.values()
                    if m.state == "ready" and m.in_flight < self._slots
                ]
                heapq.heapify(self._open)

    def _count(self, member: Member, sign: int) -> None:
        if member.state in _ABLE:
            self.able += sign
            self.busy += sign * (member.in_flight > 0)
            self.calls += sign * member.in_flight
