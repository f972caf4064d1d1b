"""Puts actors on nodes and GPUs as Ray would, and counts the memory on each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from repo_ray.planning.memory import GIB, Items

#: Fractions of GPUs and CPUs are added up in floating point.
_EPSILON = 1e-6


class PlanError(Exception):
    """The config cannot run on the given machines. The message says what is short."""


@dataclass(frozen=True)
class Cluster:
    """Equal nodes. `memory_gib` is a node's main memory, `gpu_memory_gib` that of one GPU."""

    nodes: int
    cpus: float
    memory_gib: float
    gpus: int = 0
    gpu_memory_gib: float = 0.0

    @classmethod
    def of_this_machine(cls) -> Cluster:
        """One node, its GPUs left out."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        return cls(nodes=1, cpus=float(os.cpu_count() or 1), memory_gib=round(memory, 1))


@dataclass(frozen=True)
class Bundle:
    """What one actor reserves: `gpus` as in Ray (a fraction shares one), memory per device."""

    name: str
    cpus: float
    gpus: float
    memory: Items

    @property
    def device_bytes(self) -> int:
        """Memory on each of its GPUs or, without any, in its node's main memory."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Place:
    """Where a bundle goes: node number and GPU numbers on it."""

    bundle: Bundle
    node: int
    gpus: tuple[int, ...]


@dataclass
class _Node:
    cpus: float
    memory: float
    gpu_shares: list[float]
    gpu_memory: list[float]

    def take(self, bundle: Bundle) -> tuple[int, ...] | None:
        """Reserves and returns the GPUs; None, and nothing reserved, if it does not fit."""
        if bundle.cpus > self.cpus + _EPSILON:
            return None
        need = float(bundle.device_bytes)
        if not bundle.gpus:
            if need > self.memory:
                return None
            self.memory -= need
            chosen: list[int] = []
        else:
            share = bundle.gpus if bundle.gpus < 1 else 1.0
            fits = [
                i
                for i, free in enumerate(self.gpu_shares)
                if free + _EPSILON >= share and self.gpu_memory[i] >= need
            ]
            # Fractions fill up GPUs that are already in use before they open another.
            fits.sort(key=lambda i: (self.gpu_shares[i], i))
            chosen = fits[: max(1, round(bundle.gpus))]
            if len(chosen) < bundle.gpus - _EPSILON:
                return None
            for i in chosen:
                self.gpu_shares[i] -= share
                self.gpu_memory[i] -= need
        self.cpus -= bundle.cpus
        return tuple(chosen)


def place(bundles: Sequence[Bundle], cluster: Cluster) -> list[Place]:
    """First fit, largest first; the order of the result is that of `bundles`.

    Raises `PlanError` naming the first actor that finds no room, and what it needs.
    """
    nodes = [
        _Node(
            cluster.cpus,
            cluster.memory_gib * GIB,
            [1.0] * cluster.gpus,
            [cluster.gpu_memory_gib * GIB] * cluster.gpus,
        )
        for _ in range(cluster.nodes)
    ]
    places: dict[int, Place] = {}
    order = sorted(
        range(len(bundles)), key=lambda i: (-bundles[i].gpus, -bundles[i].device_bytes, i)
    )
    for index in order:
        bundle = bundles[index]
        for number, node in enumerate(nodes):
            gpus = node.take(bundle)
            if gpus is not None:
                places[index] = Place(bundle, number, gpus)
                break
        else:
            raise PlanError(_no_room(bundle, bundles, cluster))
    return [places[i] for i in range(len(bundles))]


def _no_room(bundle: Bundle, bundles: Sequence[Bundle], cluster: Cluster) -> str:
    what = f"{bundle.name} needs {bundle.cpus:g} CPUs"
    if bundle.gpus:
        what += f" and {bundle.gpus:g} GPUs with {bundle.device_bytes / GIB:.1f} GiB each"
        limit = cluster.gpu_memory_gib
        where = f"{cluster.gpus} GPUs of {limit:g} GiB"
    else:
        what += f" and {bundle.device_bytes / GIB:.1f} GiB of main memory"
        limit = cluster.memory_gib
        where = f"{limit:g} GiB of main memory"
    message = f"does not fit: {what}; a node has {cluster.cpus:g} CPUs and {where}"
    if bundle.device_bytes > limit * GIB:
        largest = sorted(bundle.memory.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {size / GIB:.1f} GiB" for name, size in largest)
        return f"{message}. The largest parts are {parts}"
    total_gpus = sum(b.gpus for b in bundles)
    total_cpus = sum(b.cpus for b in bundles)
    return (
        f"{message}. All actors together reserve {total_gpus:g} GPUs and {total_cpus:g} CPUs; "
        f"the {cluster.nodes} node(s) have {cluster.nodes * cluster.gpus} GPUs and "
        f"{cluster.nodes * cluster.cpus:g} CPUs"
    )
