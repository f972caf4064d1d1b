import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.algorithms.grpo import group_advantages


def reference_advantages(rewards, groups):
    made = []
    for reward, group in zip(rewards, groups, strict=True):
        own = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        if len(set(own)) == 1:
            made.append(0.0)
        else:
            made.append((reward - statistics.fmean(own)) / statistics.stdev(own))
    return made


def test_groups_by_hand():
    # Of 1, 2, 3 the mean is 2 and the sample deviation 1; of 0, 4 they are 2 and sqrt(8).
    rewards = torch.tensor([1.0, 0.0, 2.0, 4.0, 3.0, 5.0, 5.0, -7.0])
    result = group_advantages(rewards, ["a", "b", "a", "b", "a", "same", "same", "alone"])
    half = 2 / 8**0.5
    assert result.advantages.tolist() == pytest.approx([-1, -half, 0, half, 1, 0, 0, 0])
    assert (result.groups, result.lone, result.equal) == (4, 1, 1)


#: Rewards on a grid: a group's deviation is then either 0 or far above what counts as 0.
GRID = st.integers(-40, 40).map(lambda k: k / 8)


@given(st.lists(st.tuples(GRID, st.integers(0, 4)), min_size=1, max_size=24))
def test_advantages_are_those_of_a_loop_over_the_batch(rows):
    rewards, groups = [list(column) for column in zip(*rows, strict=True)]
    result = group_advantages(torch.tensor(rewards, dtype=torch.float64), groups)
    expected = reference_advantages(rewards, groups)
    assert result.advantages.tolist() == pytest.approx(expected, abs=1e-9)
    sizes = [groups.count(group) for group in set(groups)]
    assert result.groups == len(sizes)
    assert result.lone == sizes.count(1)
    values = [{r for r, g in zip(rewards, groups, strict=True) if g == h} for h in set(groups)]
    assert result.lone + result.equal == sum(len(v) == 1 for v in values)


def test_shift_and_scale_of_the_rewards_do_not_matter():
    torch.manual_seed(0)
    rewards, groups = torch.randn(12, dtype=torch.float64), [i % 3 for i in range(12)]
    plain = group_advantages(rewards, groups).advantages
    moved = group_advantages(1e-3 * rewards + 5.0, groups).advantages
    torch.testing.assert_close(moved, plain)
    assert plain.abs().max() > 0.5


@pytest.mark.parametrize("value", [-9.3, 30.1, 100.3])
def test_equal_rewards_are_a_group_without_variance_whatever_their_size(value):
    result = group_advantages(torch.full((7,), value), ["a"] * 7)
    assert result.equal == 1
    assert not result.advantages.any()


def test_every_reward_needs_its_group():
    with pytest.raises(ValueError, match="zip"):
        group_advantages(torch.zeros(3), ["a", "b"])
