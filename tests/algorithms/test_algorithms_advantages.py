import math

import pytest
import torch

from repo_ray.algorithms.advantages import gae, placed_rewards, reward_at_end, whiten


def reference_gae(rewards, values, gamma, lam, after):
    """The defining double sum over one reply's tokens, without recursion."""
    following = [*values[1:], after]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


def test_gae_by_hand():
    # delta = [0 + 0.5 * 2 - 1, 3 + 0 - 2] = [0, 1]; A = [0 + 0.5 * 0.5 * 1, 1].
    advantages, returns = gae(
        torch.tensor([[0.0, 3.0]]),
        torch.tensor([[1.0, 2.0]]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([False]),
        gamma=0.5,
        lam=0.5,
    )
    assert advantages.tolist() == [[0.25, 1.0]]
    assert returns.tolist() == [[1.25, 3.0]]


@pytest.mark.parametrize("truncation", ["terminal", "bootstrap"])
def test_gae_is_the_double_sum_over_unmasked_tokens(truncation):
    torch.manual_seed(0)
    mask = torch.rand(6, 9) > 0.3
    mask[0] = True
    mask[1] = False
    values, reward = torch.randn(6, 9), torch.randn(6)
    truncated = torch.tensor([True, True, True, False, False, True])
    after = torch.randn(6)
    rewards = reward_at_end(reward, mask)
    advantages, returns = gae(rewards, values, mask, truncated, 0.9, 0.8, truncation, after)
    for row in range(6):
        at = [t for t in range(9) if mask[row, t]]
        if not at:
            assert not advantages[row].any()
            continue
        end = float(after[row]) if truncation == "bootstrap" and truncated[row] else 0.0
        expected = reference_gae(
            [float(reward[row]) * (t == at[-1]) for t in at],
            [float(values[row, t]) for t in at],
            0.9,
            0.8,
            end,
        )
        assert advantages[row, at].tolist() == pytest.approx(expected, abs=1e-5)
        assert torch.equal(returns[row, at], advantages[row, at] + values[row, at])
        assert not advantages[row][~mask[row]].any()
        assert not returns[row][~mask[row]].any()


def test_undiscounted_lambda_one_is_reward_minus_value():
    values = torch.tensor([[0.5, -1.0, 2.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    rewards = reward_at_end(torch.tensor([4.0]), mask)
    advantages, returns = gae(rewards, values, mask, torch.tensor([True]), 1.0, 1.0)
    torch.testing.assert_close(advantages, 4.0 - values)
    torch.testing.assert_close(returns, torch.full((1, 3), 4.0))


def test_bootstrap_needs_the_next_values():
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="next_values"):
        gae(one, one, one.bool(), torch.tensor([True]), 1.0, 1.0, "bootstrap")


def test_reward_goes_to_the_last_counted_token():
    mask = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    rewards = reward_at_end(torch.tensor([1.0, 2.0, 3.0]), mask)
    assert rewards.tolist() == [[0, 1, 0], [0, 0, 2], [0, 0, 0]]


def test_whitening_ignores_masked_entries():
    x = torch.tensor([[1.0, 3.0, 999.0], [5.0, -7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    # Mean of 1, 3, 5, 7 is 4, population variance 5.
    expected = [[-3, -1, 0], [1, 0, 3]]
    result = whiten(x, mask)
    torch.testing.assert_close(result, torch.tensor(expected) / math.sqrt(5))


def test_whitening_without_variance_gives_zero():
    same = torch.full((2, 3), 0.7)
    assert not whiten(same, torch.ones(2, 3, dtype=torch.bool)).any()
    one = torch.zeros(2, 3, dtype=torch.bool)
    one[0, 0] = True
    assert not whiten(torch.randn(2, 3), one).any()
    assert not whiten(torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.bool)).any()


@pytest.mark.parametrize("value", [-30.1, 100.3, 3e6])
def test_equal_advantages_stay_equal_whatever_their_size(value):
    same = torch.full((17, 53), value)  # in float32 the mean of -30.1 is off by one last digit
    assert not whiten(same, torch.ones_like(same, dtype=torch.bool)).any()
    same[0, 0] += abs(value)
    # One of n entries lies d above the others: it is sqrt(n - 1) deviations above the mean.
    assert float(whiten(same, torch.ones_like(same, dtype=torch.bool))[0, 0]) == pytest.approx(
        math.sqrt(17 * 53 - 1), rel=1e-5
    )


def test_rewards_are_placed_where_they_are_said_to_be():
    mask = torch.tensor([[True, False, True, True], [True, True, False, False], [False] * 4])
    placed = [((0, 1.0), (3, -2.0), (3, 0.5)), (), ()]
    rewards = placed_rewards(placed, torch.tensor([9.0, 7.0, 5.0]), mask)
    assert rewards.tolist() == [[1, 0, 0, -1.5], [0, 7, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("token", [1, 4, -1])
def test_a_reward_on_a_token_that_the_loss_does_not_count_is_refused(token):
    mask = torch.tensor([[True, False, True, True]])
    with pytest.raises(ValueError, match=f"row 0: a reward is placed on token {token}"):
        placed_rewards([((token, 1.0),)], torch.zeros(1), mask)


def test_placed_rewards_need_one_sequence_per_row():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        placed_rewards([()], torch.zeros(2), torch.ones(2, 3, dtype=torch.bool))


def test_gae_over_two_turns_with_the_hotelier_s_tokens_between_by_hand():
    # Sampled tokens 0, 1 (turn one, reward 2 on its last) and 4, 5 (turn two, reward 4);
    # 2 and 3 are the hotelier's. gamma 0.5, lambda 0.5, so gamma lambda is 0.25.
    mask = torch.tensor([[True, True, False, False, True, True]])
    values = torch.tensor([[1.0, 2.0, 99.0, -99.0, 4.0, 1.0]])
    rewards = placed_rewards([((1, 2.0), (5, 4.0))], torch.tensor([3.0]), mask)
    advantages, returns = gae(rewards, values, mask, torch.tensor([False]), 0.5, 0.5)
    # delta_5 = 4 + 0 - 1 = 3             A_5 = 3
    # delta_4 = 0 + 0.5 * 1 - 4 = -3.5    A_4 = -3.5 + 0.25 * 3 = -2.75
    # delta_1 = 2 + 0.5 * 4 - 2 = 2       A_1 = 2 + 0.25 * -2.75 = 1.3125
    # delta_0 = 0 + 0.5 * 2 - 1 = 0       A_0 = 0.25 * 1.3125 = 0.328125
    assert advantages.tolist() == [[0.328125, 1.3125, 0, 0, -2.75, 3]]
    assert returns.tolist() == [[1.328125, 3.3125, 0, 0, 1.25, 4]]
