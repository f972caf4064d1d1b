import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.algorithms.dpo import dpo_loss


def reference_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    """Eq. 7 as it is written, with ratios of probabilities."""
    chosen = math.exp(policy_chosen) / math.exp(reference_chosen)
    rejected = math.exp(policy_rejected) / math.exp(reference_rejected)
    z = beta * math.log(chosen) - beta * math.log(rejected)
    return -math.log(1 / (1 + math.exp(-z)))


def columns(n=32):
    torch.manual_seed(0)
    policy = -20 * torch.rand(2, n, dtype=torch.float64)
    return *policy, *(policy + 4 * torch.randn(2, n, dtype=torch.float64))


def test_dpo_by_hand():
    # Implicit rewards 0.1 * (-10 + 12) = 0.2 and 0.1 * (-20 + 18) = -0.2: the margin is 0.4.
    result = dpo_loss(*map(torch.tensor, ([-10.0], [-20.0], [-12.0], [-18.0])), beta=0.1)
    assert result.loss.tolist() == pytest.approx([math.log(1 + math.exp(-0.4))])
    assert result.chosen_rewards.tolist() == pytest.approx([0.2])
    assert result.rejected_rewards.tolist() == pytest.approx([-0.2])
    assert result.margins.tolist() == pytest.approx([0.4])


def test_a_policy_that_is_its_reference_has_loss_ln_2_and_no_preference():
    chosen, rejected, *_ = columns()
    result = dpo_loss(chosen, rejected, chosen, rejected, beta=0.7)
    assert result.loss.tolist() == pytest.approx([math.log(2)] * len(chosen))
    assert result.right.tolist() == [0.5] * len(chosen)


def test_right_is_whether_the_chosen_reply_has_the_higher_implicit_reward():
    # The first reply is likelier than its partner in both cases; what counts is the change.
    policy, reference = torch.tensor([-1.0, -1.0]), torch.tensor([-2.0, -0.5])
    zero = torch.tensor([-9.0, -9.0])
    assert dpo_loss(policy, zero, reference, zero, beta=0.1).right.tolist() == [1.0, 0.0]


@given(
    st.lists(st.floats(-30, 0), min_size=4, max_size=4),
    st.floats(0.01, 2.0),
)
def test_dpo_is_the_papers_formula_pair_by_pair(logprobs, beta):
    result = dpo_loss(*(torch.tensor([x], dtype=torch.float64) for x in logprobs), beta)
    assert float(result.loss) == pytest.approx(reference_loss(*logprobs, beta), rel=1e-6, abs=1e-12)


def test_dpo_gradient_by_finite_differences():
    chosen, rejected, *reference = columns()
    for moved in (0, 1):
        policy = [chosen.clone(), rejected.clone()]
        policy[moved].requires_grad_(True)
        dpo_loss(*policy, *reference, beta=0.3).loss.sum().backward()
        step = 1e-6
        shifts = [torch.zeros_like(chosen), torch.zeros_like(chosen)]
        shifts[moved] += step
        up = [p.detach() + s for p, s in zip(policy, shifts, strict=True)]
        down = [p.detach() - s for p, s in zip(policy, shifts, strict=True)]
        difference = dpo_loss(*up, *reference, beta=0.3).loss
        difference = (difference - dpo_loss(*down, *reference, beta=0.3).loss) / (2 * step)
        torch.testing.assert_close(policy[moved].grad, difference, atol=1e-7, rtol=1e-5)
        assert (difference.abs() > 1e-3).any()


def test_hopeless_and_certain_pairs_stay_finite():
    far, zero = torch.tensor([-1e4, 1e4], requires_grad=True), torch.zeros(2)
    result = dpo_loss(far, zero, zero, zero, beta=1.0)
    assert result.loss.tolist() == [1e4, 0.0]
    result.loss.sum().backward()
    assert far.grad.tolist() == [-1.0, 0.0]
