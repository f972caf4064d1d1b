import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.models.adapters import adapter_digest, build_blob, parse_adapter
from repo_ray.rollouts.publication import (
    PublicationError,
    check_canary,
    check_read_back,
    difference,
    expected_shard,
    make_canary,
    tensors_to_verify,
    visible_canary,
)

# --- which tensors ---------------------------------------------------------------------


def test_the_first_push_reads_everything_back():
    assert tensors_to_verify(["b", "a", "c"], 1, push=0) == ["a", "b", "c"]


@given(st.integers(1, 30), st.integers(1, 8))
def test_rotation_covers_every_module_and_repeats_none_within_a_push(modules: int, count: int):
    names = [f"m{i:02}" for i in range(modules)]
    seen: set[str] = set()
    for push in range(1, 1 + math.ceil(modules / count)):
        chosen = tensors_to_verify(names, count, push)
        assert len(chosen) == len(set(chosen)) == min(count, modules)
        seen.update(chosen)
    assert seen == set(names)


def test_none_are_read_back_later_when_the_count_is_zero():
    assert tensors_to_verify(["a", "b"], 0, push=5) == []


# --- shards ----------------------------------------------------------------------------


def test_column_parallel_layers_split_rows():
    full = torch.arange(12.0).reshape(6, 2)
    assert expected_shard(full, (2, 2), rank=1, world=3).tolist() == [[4, 5], [6, 7]]


def test_row_parallel_layers_split_columns():
    full = torch.arange(8.0).reshape(2, 4)
    assert expected_shard(full, (2, 2), rank=1, world=2).tolist() == [[2, 3], [6, 7]]


def test_key_heads_fewer_than_ranks_are_replicated():
    full = torch.arange(4.0).reshape(4, 1)  # two heads of two rows, four ranks
    held = [expected_shard(full, (2, 1), rank, 4).flatten().tolist() for rank in range(4)]
    assert held == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_one_rank_holds_the_whole_weight():
    full = torch.randn(3, 5)
    assert torch.equal(expected_shard(full, (3, 5), 0, 1), full)


# --- comparing -------------------------------------------------------------------------


def test_difference_is_the_largest_absolute_one():
    assert difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0]])) == 3.0


def test_nan_and_other_shapes_never_pass():
    ones = torch.ones(2, 2)
    assert difference(torch.full((2, 2), math.nan), ones) == math.inf
    assert difference(torch.ones(2, 3), ones) == math.inf


def test_one_unit_in_the_last_place_of_bfloat16_is_seen():
    live = torch.full((4, 4), 1.0, dtype=torch.bfloat16)
    live[3, 1] = 1.0078125
    with pytest.raises(PublicationError, match=r"layers\.0\.q by 0\.0078"):
        check_read_back(
            "rollout-0",
            3,
            ["layers.0.q"],
            [{"layers.0.q": difference(live, torch.ones_like(live))}],
        )


def test_every_worker_counts():
    good, bad = {"q": 0.0}, {"q": 0.5}
    assert check_read_back("e", 1, ["q"], [good, good]) == 0.0
    with pytest.raises(PublicationError, match="worker 1"):
        check_read_back("e", 1, ["q"], [good, bad])


def test_a_tensor_left_out_of_the_reading_is_an_error():
    with pytest.raises(PublicationError, match="did not read back"):
        check_read_back("e", 1, ["q", "k"], [{"q": 0.0}])


# --- canary ----------------------------------------------------------------------------


def template(rank: int = 4, alpha: int = 8) -> bytes:
    return build_blob(
        {"m.q.lora_A.weight": torch.zeros(rank, 256), "m.q.lora_B.weight": torch.zeros(512, rank)},
        rank,
        alpha,
    )


def test_canary_has_the_shape_of_its_template_and_the_asked_scale():
    canary = parse_adapter(make_canary(template(), seed=1, scale=0.5))
    a, b = canary.modules["m.q"]
    assert (canary.rank, canary.alpha) == (4, 8)
    assert (a.shape, b.shape) == ((4, 256), (512, 4))
    outputs = (
        canary.scale
        * torch.randn(4096, 256, generator=torch.Generator().manual_seed(0))
        @ (b @ a).T
    )
    assert outputs.std() == pytest.approx(0.5, rel=0.15)


def test_canary_depends_on_its_seed_alone():
    one, again, other = [adapter_digest(make_canary(template(), seed, 0.5)) for seed in (1, 1, 2)]
    assert one == again != other


def size(blob: bytes) -> float:
    return float(parse_adapter(blob).modules["m.q"][1].abs().mean())


def test_the_weakest_canary_that_is_seen_is_taken_and_else_the_strongest():
    seen: list[float] = []

    def moved_by(nats: float):
        def logprobs(blob: bytes) -> list[list[float]]:
            seen.append(size(blob))
            return [[-1.0 - nats * len(seen)]]

        return logprobs

    # Ten tolerances are 1 nat, and a tenth more has to be: the third try moves by 1.2.
    found = visible_canary(template(), 1, 0.1, [[-1.0]], moved_by(0.4))
    assert seen == sorted(seen)
    assert len(seen) == 3
    assert (size(found.blob), found.before, found.after) == (seen[-1], [[-1.0]], [[-2.2]])
    seen.clear()
    found = visible_canary(template(), 1, 0.1, [[-1.0]], moved_by(0.0))
    assert len(seen) > 3
    assert size(found.blob) == max(seen)


BEFORE = [[-1.0, -2.0], [-3.0]]
AFTER = [[-3.0, -3.0], [-6.0]]


def test_an_engine_that_moves_as_peft_does_passes():
    near = [[-3.03, -3.0], [-6.0]]
    report = check_canary(BEFORE, near, BEFORE, AFTER, tolerance=0.1)
    assert report.tokens == 3
    assert report.peft_moved == pytest.approx(2.0)
    assert report.engine_moved == pytest.approx(2.01)
    assert report.canary_difference == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("engine_before", "engine_after", "peft_after", "message"),
    [
        (BEFORE, BEFORE, AFTER, "is not what the engine samples"),  # push had no effect
        (AFTER, AFTER, AFTER, "same base"),  # another base model
        (BEFORE, [[-1.5, -4.0], [-3.0]], [[-1.0, -2.1], [-3.0]], "needed to tell"),  # too small
        (BEFORE, [[-3.0, -3.0], [-2.0]], AFTER, "another adapter"),  # moved, but elsewhere
        (BEFORE, [[math.nan] * 2, [-6.0]], AFTER, "is not what"),
    ],
)
def test_disagreement_stops(engine_before, engine_after, peft_after, message):
    with pytest.raises(PublicationError, match=message):
        check_canary(engine_before, engine_after, BEFORE, peft_after, tolerance=0.1)


def test_probes_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        check_canary(BEFORE, [[-1.0], [-3.0]], BEFORE, AFTER, tolerance=0.1)
