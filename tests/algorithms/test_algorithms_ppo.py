import math

import pytest
import torch

from repo_ray.algorithms.ppo import (
    effective_sample_size,
    explained_variance,
    kl,
    policy_loss,
    value_error,
    value_loss,
)


def reference_policy_loss(new, proximal, behaviour, advantage, clip, mode):
    anchor = behaviour if mode == "behaviour" else proximal
    ratio = math.exp(new - anchor)
    held = min(max(ratio, 1 - clip), 1 + clip)
    weight = 1.0 if mode == "behaviour" else min(math.exp(proximal - behaviour), 2.0)
    return -weight * min(ratio * advantage, held * advantage)


def logprobs(n=64):
    torch.manual_seed(0)
    behaviour = -3 * torch.rand(n, dtype=torch.float64)
    proximal = behaviour + 0.8 * torch.randn(n, dtype=torch.float64)
    new = proximal + 0.4 * torch.randn(n, dtype=torch.float64)
    return new, proximal, behaviour, torch.randn(n, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 1.0, -1.2, True),  # good token, already far up: held, no gradient
        (1.5, -1.0, 1.5, False),  # bad token that went up: pulled back in full
        (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.8, True),
        (1.1, 2.0, -2.2, False),
    ],
)
def test_the_four_corners_of_the_clip(ratio, advantage, loss, clipped):
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    zero = torch.zeros(1)
    result = policy_loss(new, zero, zero, torch.tensor([advantage]), 0.2, "behaviour")
    assert float(result.loss.detach()) == pytest.approx(loss)
    assert result.clipped.tolist() == [clipped]
    result.loss.sum().backward()
    assert float(new.grad) == pytest.approx(0.0 if clipped else -ratio * advantage)


@pytest.mark.parametrize("mode", ["behaviour", "decoupled"])
def test_policy_loss_is_the_formula_token_by_token(mode):
    columns = logprobs()
    result = policy_loss(*columns, 0.2, mode)
    expected = [
        reference_policy_loss(*(float(c[i]) for c in columns), 0.2, mode) for i in range(64)
    ]
    assert result.loss.tolist() == pytest.approx(expected)
    weights = torch.exp(columns[1] - columns[2])
    assert (weights > 2).any()
    assert (weights < 1).any()


@pytest.mark.parametrize("mode", ["behaviour", "decoupled"])
def test_policy_gradient_by_finite_differences(mode):
    new, *rest = logprobs()
    new.requires_grad_(True)
    policy_loss(new, *rest, 0.2, mode).loss.sum().backward()
    step = 1e-6
    for i in range(len(new)):
        up, down = new.detach().clone(), new.detach().clone()
        up[i] += step
        down[i] -= step
        difference = (
            policy_loss(up, *rest, 0.2, mode).loss.sum()
            - policy_loss(down, *rest, 0.2, mode).loss.sum()
        ) / (2 * step)
        assert float(new.grad[i]) == pytest.approx(float(difference), abs=1e-6)


def test_zero_advantages_give_zero_gradient():
    new, proximal, behaviour, advantage = logprobs()
    new.requires_grad_(True)
    policy_loss(new, proximal, behaviour, 0 * advantage, 0.2, "decoupled").loss.sum().backward()
    assert not new.grad.any()


def test_value_loss_takes_the_larger_error():
    new = torch.tensor([1.0, 1.0, 0.1])
    old = torch.tensor([0.0, 0.0, 0.0])
    returns = torch.tensor([1.0, 2.0, 1.0])
    # Clipped predictions are 0.2, 0.2, 0.1.
    expected = torch.tensor([0.5 * 0.8**2, 0.5 * 1.8**2, 0.5 * 0.9**2])
    torch.testing.assert_close(value_loss(new, old, returns, 0.2), expected)


def test_value_gradient_by_finite_differences():
    torch.manual_seed(1)
    new, old, returns = torch.randn(3, 32, dtype=torch.float64)
    new.requires_grad_(True)
    value_loss(new, old, returns, 0.2).sum().backward()
    plain = new.detach()
    step = 1e-6
    difference = (
        value_loss(plain + step, old, returns, 0.2) - value_loss(plain - step, old, returns, 0.2)
    ) / (2 * step)
    torch.testing.assert_close(new.grad, difference, atol=1e-6, rtol=1e-6)


def test_kl_of_a_known_pair_of_distributions():
    torch.manual_seed(0)
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    drawn = torch.multinomial(p, 200_000, replacement=True)
    estimate = kl(p.log()[drawn], q.log()[drawn])
    assert estimate == pytest.approx(float((p * (p / q).log()).sum()), rel=0.02)
    assert kl(p.log()[drawn], p.log()[drawn]) == 0.0


def test_effective_sample_size():
    same = torch.randn(10)
    assert effective_sample_size(same, same + 3.0) == pytest.approx(1.0)
    # Weights 1, 1, 1, 3: 36 / (4 * 12).
    weights = torch.tensor([1.0, 1.0, 1.0, 3.0])
    assert effective_sample_size(torch.zeros(4), weights.log()) == pytest.approx(0.75)


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.zeros(4), returns) == 0.0
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert math.isnan(explained_variance(returns, torch.ones(4)))


def test_values_diverge_at_ten_times_the_size_of_the_rewards():
    rewards = torch.tensor([1.0, 3.0])  # their RMS is sqrt(5)
    assert value_error(torch.zeros(2), rewards) == (pytest.approx(math.sqrt(5)), False)
    # Off by 22 everywhere is below 10 sqrt(5) = 22.4, off by 23 is not.
    assert value_error(rewards + 22.0, rewards) == (pytest.approx(22.0), False)
    assert value_error(rewards - 23.0, rewards) == (pytest.approx(23.0), True)
    # Where there was no reward the bound is that of rewards of size 1.
    assert not value_error(torch.full((2,), 9.9), torch.zeros(2))[1]
    assert value_error(torch.full((2,), 10.1), torch.zeros(2))[1]
    for wrong in (math.nan, math.inf):
        assert value_error(torch.tensor([0.0, wrong]), rewards)[1]
