"""Where actors go: their options for Ray, room for a whole run, and the learner's gang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray._private.state import actors, available_resources_per_node
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from repo_ray.config.learning import LearnerConfig
from repo_ray.config.pool import PoolConfig
from repo_ray.planning.nodes import Node, Reservation, why_unplaced


class PlacementError(Exception):
    """Ray finds no place for some actors; the message says for which, and why."""


def actor_options(settings: PoolConfig | LearnerConfig) -> dict[str, Any]:
    """What an actor reserves, and the labels of its node, as Ray's actor options."""
    return {
        "num_cpus": settings.cpus,
        "num_gpus": settings.gpus,
        "resources": settings.resources,
        "label_selector": settings.labels,
    }


def live_nodes() -> list[Node]:
    """The cluster's nodes as they are now."""
    free = available_resources_per_node()
    return [
        Node(n["NodeManagerAddress"], n["Labels"], n["Resources"], free.get(n["NodeID"], {}))
        for n in ray.nodes()
        if n["Alive"]
    ]


async def require_room(
    reservations: Sequence[Reservation], timeout_s: float, tell: Callable[[str], None]
) -> None:
    """Returns once Ray has placed everything at the same time, and gives the places back.

    Until then the request stands, so that an autoscaler starts nodes for it. `tell` is told once
    what is missing if that takes longer than a second. Reservations of nothing are left out.
    Raises `PlacementError` after `timeout_s` seconds.
    """
    each = [r for r in reservations for _ in range(r.count) if r.amounts]
    if not each:
        return
    group = _request(each)
    try:
        await _placed(group, reservations, timeout_s, tell)
    finally:
        remove_placement_group(group)


async def reserve_gang(
    gang: Reservation, timeout_s: float, tell: Callable[[str], None]
) -> PlacementGroup:
    """A bundle for each of the gang's actors, all at once and on as few nodes as possible.

    Raises `PlacementError` after `timeout_s` seconds.
    """
    group = _request([gang] * gang.count)
    try:
        await _placed(group, [gang], timeout_s, tell)
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def why_waiting(actor: ActorHandle, reservation: Reservation) -> str:
    """Why an actor has no node yet; empty once it has one, even if it is still starting there."""
    known = actors(actor._actor_id.hex())  # {} for a moment after its creation
    if known.get("Pid"):
        return ""
    return why_unplaced([reservation], live_nodes())


def _request(each: Sequence[Reservation]) -> PlacementGroup:
    return placement_group(
        [reservation.amounts for reservation in each],
        strategy="PACK",
        bundle_label_selector=[dict(reservation.labels) for reservation in each],
    )


async def _placed(
    group: PlacementGroup,
    reservations: Sequence[Reservation],
    timeout_s: float,
    tell: Callable[[str], None],
) -> None:
    limit = time.monotonic() + timeout_s
    told = False
    # Short waits: a thread cannot be cancelled, and the program waits for it when it ends.
    while not await asyncio.to_thread(group.wait, 1):
        if told and time.monotonic() < limit:
            continue
        why = why_unplaced(reservations, await asyncio.to_thread(live_nodes))
        if time.monotonic() >= limit:
            raise PlacementError(f"actors not placed within {timeout_s:g} s: {why}")
        tell(f"waiting for nodes, {timeout_s:g} s at most: {why}")
        told = True
