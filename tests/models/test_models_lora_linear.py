import pytest
import torch
from peft.tuners.lora import Linear
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import adapter_parameters, add_adapters, computing
from repo_ray.models.lora_linear import LoraLinear, _LoraProduct


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_by_finite_differences(bias):
    torch.manual_seed(0)
    x, a, b = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 5), (2, 5), (4, 2))
    )
    w0 = torch.randn(4, 5, dtype=torch.float64)
    offset = torch.randn(4, dtype=torch.float64) if bias else None

    def product(x, a, b):
        return _LoraProduct.apply(x, w0, offset, a, b, 0.5)

    torch.testing.assert_close(product(x, a, b), nn.functional.linear(x, w0 + 0.5 * b @ a, offset))
    # The layer hands its masters float32 gradients, hence the loose tolerance.
    assert torch.autograd.gradcheck(product, (x, a, b), atol=1e-5, rtol=1e-4)


def test_same_results_and_gradients_as_pefts_own_layer(monkeypatch):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
    )
    base = LlamaForCausalLM(config).requires_grad_(False)
    model = add_adapters(base, ["policy", "value"], LoraShape(rank=3, alpha=6))
    parameters = adapter_parameters(model, "policy")
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(0, 0.2)

    def measured():
        with computing(model, "policy"):
            logits = model(input_ids=torch.arange(20).view(2, 10)).logits
        model.zero_grad()
        logits.square().mean().backward()
        return logits.detach(), [p.grad.clone() for p in parameters]

    mine = measured()
    assert isinstance(base.model.layers[0].mlp.up_proj, LoraLinear)
    monkeypatch.setattr(LoraLinear, "forward", Linear.forward)
    torch.testing.assert_close(mine, measured(), atol=1e-5, rtol=1e-4)


def test_an_update_far_below_the_gap_of_bf16_moves_the_output_by_as_much_in_the_mean():
    """Each output of W0 x lies anywhere between two bf16 numbers, so one rounding of the whole sum
    takes a part of them across; rounding W0 x first leaves all of them where they were."""
    torch.manual_seed(0)
    x, w0 = torch.randn(512, 256).bfloat16(), torch.randn(512, 256).bfloat16() / 16
    a, b = torch.randn(4, 256) / 16, torch.randn(512, 4) * 1e-5

    def moved(after):
        exact = (x.float() @ a.T) @ b.T
        difference = after.double() - _LoraProduct.apply(x, w0, None, a, b * 0, 1.0).double()
        return float((difference * exact).sum() / exact.double().square().sum())

    assert moved(_LoraProduct.apply(x, w0, None, a, b, 1.0)) == pytest.approx(1, abs=0.15)
    low = (x @ a.T.bfloat16()) @ b.T.bfloat16()
    assert moved((x @ w0.T) + low) == pytest.approx(0, abs=0.15)
