"""Reservations against live nodes: what is called unplaced has no place, and the words say why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_ray.config import load_config
from repo_ray.planning.nodes import Node, Reservation, unplaced, why_unplaced
from repo_ray.planning.plan import reservations

ROLE = "repo-ray/role"
AMOUNTS = st.fixed_dictionaries({"CPU": st.integers(0, 4), "GPU": st.integers(0, 2)})
LABELS = st.sampled_from([{}, {ROLE: "judge"}, {ROLE: "learner"}])


@st.composite
def node(draw: st.DrawFn) -> Node:
    total = draw(AMOUNTS)
    free = {name: draw(st.integers(0, amount)) for name, amount in total.items()}
    return Node("10.0.0.9", draw(LABELS), total, free)


@st.composite
def reservation(draw: st.DrawFn) -> Reservation:
    return Reservation(
        draw(st.sampled_from(["a", "b", "c"])),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 2)),
        labels=draw(LABELS),
    )


def room(node_: Node, free: bool) -> dict[str, float]:
    return dict(node_.free if free else node_.total)


def can_be_placed(
    actors: Sequence[Reservation], left: list[dict[str, float]], labels: Sequence[Mapping[str, str]]
) -> bool:
    """Tries every node for every actor, one after the other."""
    if not actors:
        return True
    first, *others = actors
    for i, amounts in enumerate(left):
        suits = all(labels[i].get(k) == v for k, v in first.labels.items())
        if suits and first.cpus <= amounts["CPU"] and first.gpus <= amounts["GPU"]:
            taken = {"CPU": amounts["CPU"] - first.cpus, "GPU": amounts["GPU"] - first.gpus}
            if can_be_placed(others, [*left[:i], taken, *left[i + 1 :]], labels):
                return True
    return False


@given(st.lists(reservation(), max_size=3), st.lists(node(), max_size=3), st.booleans())
@settings(max_examples=200)
def test_what_is_placed_has_a_place_for_everyone_at_the_same_time(
    wanted: list[Reservation], nodes: list[Node], free: bool
) -> None:
    missing = unplaced(wanted, nodes, free=free)
    lacking = {id(r): count for r, count in missing}
    assert all(0 < count <= r.count for r, count in missing)
    placed = [r for r in wanted for _ in range(r.count - lacking.get(id(r), 0))]
    assert can_be_placed(placed, [room(n, free) for n in nodes], [n.labels for n in nodes])


@given(reservation(), st.lists(node(), max_size=4), st.booleans())
def test_of_equal_actors_as_many_are_placed_as_the_nodes_hold(
    wanted: Reservation, nodes: list[Node], free: bool
) -> None:
    def holds(node_: Node) -> int:
        if any(node_.labels.get(k) != v for k, v in wanted.labels.items()):
            return 0
        amounts = room(node_, free)
        limits = [
            int(amounts[name] // need)
            for name, need in (("CPU", wanted.cpus), ("GPU", wanted.gpus))
            if need
        ]
        return min(limits, default=wanted.count)

    fit = min(wanted.count, sum(map(holds, nodes)))
    missing = sum(count for _, count in unplaced([wanted], nodes, free=free))
    assert missing == wanted.count - fit


@given(st.lists(reservation(), max_size=3), st.lists(node(), max_size=3))
def test_the_explanation_names_every_role_that_finds_no_room(
    wanted: list[Reservation], nodes: list[Node]
) -> None:
    text = why_unplaced(wanted, nodes)
    missing = unplaced(wanted, nodes, free=False) or unplaced(wanted, nodes, free=True)
    assert len(text.splitlines()) == 1 + len(missing)
    for reservation_, _ in missing:
        assert f"  {reservation_.role}: " in text


HEAD = Node("10.0.0.1", {ROLE: "driver"}, {"CPU": 8}, {"CPU": 8})
JUDGES = Node("10.0.0.2", {ROLE: "judge"}, {"CPU": 4}, {"CPU": 1})
GPUS = Node("10.0.0.3", {ROLE: "rollout"}, {"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2})


@pytest.mark.parametrize(
    ("wanted", "nodes", "text"),
    [
        (
            Reservation("judge", 4, 0.5, 0, labels={ROLE: "judge"}),
            [HEAD, JUDGES],
            "2 live node(s), too little is free; other work runs there:\n"
            "  judge: 2 of 4 without a place; needs 0.5 CPU on a node with repo-ray/role=judge; "
            "10.0.0.2 has 1 of 4 CPU free",
        ),
        (
            Reservation("rollout", 1, 4, 4, labels={ROLE: "rollout"}),
            [HEAD, GPUS],
            "2 live node(s), too little for all actors, even if nothing else ran there:\n"
            "  rollout: 1 without a place; needs 4 CPU, 4 GPU on a node with "
            "repo-ray/role=rollout; 10.0.0.3 has 16 of 16 CPU free, 2 of 2 GPU free",
        ),
        (
            Reservation("learner", 2, 1, 0, {"fast_disk": 1}, {ROLE: "learner"}),
            [HEAD, Node("10.0.0.4", {}, {}, {})],
            "2 live node(s), too little for all actors, even if nothing else ran there:\n"
            "  learner: 2 of 2 without a place; needs 1 CPU, 1 fast_disk on a node with "
            "repo-ray/role=learner; no node has these labels: 10.0.0.1 has repo-ray/role=driver; "
            "10.0.0.4 has none of them",
        ),
    ],
)
def test_it_says_what_is_needed_and_what_there_is(
    wanted: Reservation, nodes: list[Node], text: str
) -> None:
    assert why_unplaced([wanted], nodes) == text


def test_actors_with_labels_are_not_crowded_out_by_those_that_may_go_anywhere() -> None:
    anywhere = Reservation("rules", 8, 1, 0)
    bound = Reservation("judge", 4, 1, 0, labels={ROLE: "judge"})
    judges = Node("10.0.0.2", {ROLE: "judge"}, {"CPU": 4}, {"CPU": 4})
    assert unplaced([anywhere, bound], [judges, HEAD], free=True) == []


def test_the_reservations_of_a_run_carry_labels_and_custom_resources() -> None:
    config = load_config(
        None,
        [
            "learner.labels={repo-ray/role: learner}",
            "learner.resources={fast_disk: 1}",
            "judge.pool.labels={repo-ray/role: judge}",
            "judge.pool.replicas=3",
            "rules.enabled=false",
        ],
    )
    found = {r.role: r for r in reservations(config)}
    assert list(found) == ["learner", "rollout", "reward_model", "judge"]
    assert found["learner"].amounts == {"CPU": 1, "fast_disk": 1}
    assert found["learner"].labels == {ROLE: "learner"}
    assert (found["judge"].count, found["judge"].labels) == (3, {ROLE: "judge"})
    assert found["rollout"].labels == {}
