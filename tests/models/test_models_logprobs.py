import pytest
import torch
from torch import nn

from repo_ray.models.logprobs import LogprobHead, token_logprobs


def full(hidden, weight, targets, temperature):
    log_p = torch.log_softmax((hidden @ weight.T).float() / temperature, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), entropy


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_equal_the_full_computation(chunk, temperature):
    torch.manual_seed(0)
    weight, targets = torch.randn(50, 8), torch.randint(50, (11,))
    mine = torch.randn(11, 8, requires_grad=True)
    theirs = mine.detach().clone().requires_grad_(True)
    weights = torch.randn(2, 11)
    got = token_logprobs(mine, weight, targets, temperature, chunk, entropy_gradient=True)
    expected = full(theirs, weight, targets, temperature)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    (got[0] @ weights[0] + got[1] @ weights[1]).backward()
    (expected[0] @ weights[0] + expected[1] @ weights[1]).backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_entropy_is_detached_unless_asked():
    hidden = torch.randn(3, 4, requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, torch.randn(9, 4), torch.tensor([0, 1, 2]), 1.0, 2)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


def test_bfloat16_is_close_to_float32():
    torch.manual_seed(0)
    hidden, weight = torch.randn(32, 64), torch.randn(200, 64) / 8
    targets = torch.randint(200, (32,))
    low = hidden.bfloat16().requires_grad_(True)
    got, _ = token_logprobs(low, weight.bfloat16(), targets, 1.0, 5)
    expected, _ = full(hidden, weight, targets, 1.0)
    assert got.dtype == torch.float32
    assert float((got - expected).detach().abs().max()) < 0.05
    got.sum().backward()
    assert low.grad.dtype == torch.bfloat16


def test_never_holds_all_logits(monkeypatch):
    largest = 0
    original = torch.Tensor.exp

    def watched(self, *args, **kwargs):
        nonlocal largest
        largest = max(largest, self.numel())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "exp", watched)
    hidden = torch.randn(100, 4, requires_grad=True)
    targets = torch.zeros(100, dtype=torch.long)
    token_logprobs(hidden, torch.randn(30, 4), targets, 1.0, 8)[0].sum().backward()
    assert largest == 8 * 30


def test_refuses_what_it_cannot_do():
    targets = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="2, 1, 4"):
        token_logprobs(torch.randn(2, 1, 4), torch.randn(5, 4), targets, 1.0, 8)
    with pytest.raises(ValueError, match="frozen"):
        token_logprobs(torch.randn(2, 4), nn.Parameter(torch.randn(5, 4)), targets, 1.0, 8)
    with pytest.raises(ValueError, match="bias"):
        LogprobHead(nn.Linear(4, 5, bias=True), 1.0, 8, False)
