"""Reservations against the nodes of a cluster: which find no room there, and why.

Where an actor goes is Ray's decision. This says in words why it has not been able to take one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from repo_ray.config.learning import LearnerConfig
from repo_ray.config.pool import PoolConfig

#: Fractions of CPUs and GPUs are added up in floating point.
_EPSILON = 1e-6
#: So many nodes are listed in a message.
_LISTED = 8


@dataclass(frozen=True)
class Reservation:
    """What each of `count` actors of one role reserves from Ray, on a node that has `labels`.

    An actor is on one node with all that it reserves, so a tensor-parallel engine, which is one
    actor, has its GPUs side by side: no placement group is needed to pack it.
    """

    role: str
    count: int
    cpus: float
    gpus: float
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, role: str, count: int, settings: PoolConfig | LearnerConfig) -> Reservation:
        return cls(role, count, settings.cpus, settings.gpus, settings.resources, settings.labels)

    @property
    def amounts(self) -> dict[str, float]:
        """By Ray's names of resources; what is zero is left out."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in amounts.items() if amount}

    @property
    def needs(self) -> str:
        """One actor's needs in words."""
        what = ", ".join(f"{amount:g} {name}" for name, amount in self.amounts.items())
        where = ", ".join(f"{key}={value}" for key, value in self.labels.items())
        return (what or "nothing") + (f" on a node with {where}" if where else "")


@dataclass(frozen=True)
class Node:
    """A live node: what it has in all and what is free there, by Ray's names of resources."""

    name: str
    labels: Mapping[str, str]
    total: Mapping[str, float]
    free: Mapping[str, float]

    def suits(self, labels: Mapping[str, str]) -> bool:
        return all(self.labels.get(key) == value for key, value in labels.items())


def unplaced(
    reservations: Sequence[Reservation], nodes: Sequence[Node], *, free: bool
) -> list[tuple[Reservation, int]]:
    """Reservations that find no room, each with how many of its actors do not.

    `free`: room in what is free now; otherwise in what the nodes have in all, as if nothing else
    ran there. First fit: those with labels first, for they have the least choice, then by size.
    """
    left = [dict(node.free if free else node.total) for node in nodes]
    missing = []
    for reservation in sorted(reservations, key=lambda r: (not r.labels, -r.gpus, -r.cpus)):
        homes = [
            amounts
            for node, amounts in zip(nodes, left, strict=True)
            if node.suits(reservation.labels)
        ]
        placed = sum(_take(homes, reservation.amounts) for _ in range(reservation.count))
        if placed < reservation.count:
            missing.append((reservation, reservation.count - placed))
    return missing


def why_unplaced(reservations: Sequence[Reservation], nodes: Sequence[Node]) -> str:
    """Which reservations find no room and why, a line for each."""
    for free, head in (
        (False, "too little for all actors, even if nothing else ran there"),
        (True, "too little is free; other work runs there"),
    ):
        missing = unplaced(reservations, nodes, free=free)
        if missing:
            lines = [_why(reservation, count, nodes) for reservation, count in missing]
            return "\n  ".join([f"{len(nodes)} live node(s), {head}:", *lines])
    return f"{len(nodes)} live node(s), with room for every actor; Ray is still placing them"


def _take(homes: Sequence[dict[str, float]], amounts: Mapping[str, float]) -> bool:
    """Takes `amounts` from the first node that has them."""
    for home in homes:
        if all(home.get(name, 0.0) + _EPSILON >= amount for name, amount in amounts.items()):
            for name, amount in amounts.items():
                home[name] = home.get(name, 0.0) - amount
            return True
    return False


def _why(reservation: Reservation, missing: int, nodes: Sequence[Node]) -> str:
    of = f" of {reservation.count}" if reservation.count > 1 else ""
    line = f"{reservation.role}: {missing}{of} without a place; needs {reservation.needs}"
    homes = [node for node in nodes if node.suits(reservation.labels)]
    if homes:
        return f"{line}; {_some([_has(node, reservation.amounts) for node in homes])}"
    keys = reservation.labels.keys()
    others = [
        f"{node.name} has "
        + (", ".join(f"{k}={v}" for k, v in node.labels.items() if k in keys) or "none of them")
        for node in nodes
    ]
    return f"{line}; no node has these labels" + (f": {_some(others)}" if others else "")


def _has(node: Node, amounts: Mapping[str, float]) -> str:
    parts = [
        f"{node.free.get(name, 0.0):g} of {node.total.get(name, 0.0):g} {name} free"
        for name in amounts
    ]
    return f"{node.name} has {', '.join(parts)}"


def _some(texts: Sequence[str]) -> str:
    rest = len(texts) - _LISTED
    return "; ".join(texts[:_LISTED]) + (f"; and {rest} more" if rest > 0 else "")
