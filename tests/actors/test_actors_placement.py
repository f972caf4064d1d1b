"""Room on a real Ray node: asked for, given back, refused with the reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import ray
from ray.util.placement_group import placement_group_table

from repo_ray.actors.learner import LearnerError, LearnerGroup
from repo_ray.actors.placement import PlacementError, live_nodes, require_room
from repo_ray.config import Config, load_config
from repo_ray.planning.nodes import Reservation

ROLE = "repo-ray/role"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, labels={ROLE: "learner"}, include_dashboard=False)
    yield
    ray.shutdown()


def free_cpus(wanted: float) -> bool:
    """Whether so many CPUs are free, now or soon: Ray reports them with a delay."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        (node,) = live_nodes()
        if node.free.get("CPU", 0) == wanted:
            return True
        time.sleep(0.1)
    return False


def ask(*reservations: Reservation, timeout_s: float = 20.0) -> list[str]:
    told: list[str] = []
    asyncio.run(require_room(reservations, timeout_s, told.append))
    return told


def test_room_is_given_back() -> None:
    learner = Reservation("learner", 2, 1, 0, labels={ROLE: "learner"})
    ask(learner, Reservation("rules", 4, 0.5, 0), Reservation("judge", 3, 0, 0))
    assert free_cpus(4)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Reservation("judge", 3, 1.5, 0), "judge: 1 of 3 without a place; needs 1.5 CPU"),
        (
            Reservation("judge", 1, 1, 0, labels={ROLE: "judge"}),
            "no node has these labels: 127.0.0.1 has repo-ray/role=learner",
        ),
        (Reservation("rollout", 1, 1, 2), "0 of 0 GPU free"),
        (Reservation("rules", 1, 1, 0, {"fast_disk": 1}), "0 of 0 fast_disk free"),
    ],
)
def test_what_has_no_room_is_named_with_the_reason(wanted: Reservation, reason: str) -> None:
    with pytest.raises(PlacementError) as error:
        ask(Reservation("learner", 1, 1, 0), wanted, timeout_s=0.0)
    text = str(error.value).replace(live_nodes()[0].name, "127.0.0.1")
    assert f"  {wanted.role}: " in text
    assert reason in text
    assert "  learner: " not in text
    assert free_cpus(4)


def test_room_that_comes_free_in_time_is_taken_and_the_wait_is_told_once() -> None:
    @ray.remote(num_cpus=4)
    def busy() -> None:
        time.sleep(4)

    work = busy.remote()
    assert free_cpus(0)
    (told,) = ask(Reservation("rollout", 1, 2, 0), timeout_s=30.0)
    assert "too little is free" in told
    ray.get(work)


def gang(ranks: int, cpus: float, timeout_s: float) -> Config:
    return load_config(
        None,
        [
            "run.name=gang",
            f"run.placement_timeout_s={timeout_s}",
            f"learner.world_size={ranks}",
            f"learner.cpus={cpus}",
            f"learner.labels={{{ROLE}: learner}}",
        ],
    )


def test_the_learners_ranks_are_reserved_together_and_let_go() -> None:
    async def body() -> None:
        group = LearnerGroup(gang(2, 1.5, 20))
        await group.reserve()
        assert free_cpus(1)
        held = [g for g in placement_group_table().values() if g["state"] == "CREATED"]
        (bundles,) = [g["bundles"] for g in held]
        assert len(bundles) == 2
        assert {g["strategy"] for g in held} == {"PACK"}
        group.stop()

    asyncio.run(body())
    assert free_cpus(4)


def test_a_gang_without_room_is_a_learner_error_that_says_why() -> None:
    group = LearnerGroup(gang(3, 2, 0))
    with pytest.raises(LearnerError, match="learner: 1 of 3 without a place; needs 2 CPU on a"):
        asyncio.run(group.reserve())
    assert free_cpus(4)
