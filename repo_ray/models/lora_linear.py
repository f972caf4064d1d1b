"""The LoRA layer's arithmetic: fewer passes over memory, float32 masters on any base."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear
from torch import Tensor, nn


class _LoraProduct(torch.autograd.Function):
    """y = W0 x + bias + s B A x in the type of x; W0 and bias are frozen.

    Written out because on a CPU half of a small model's step is memory traffic: the low-rank
    part is added inside the matrix products, forward and backward, instead of in passes of its
    own, and the float32 masters are cast to the type of x, not x to theirs.

    Both parts of y come from one product, [W0, s B] [x; A x], whose sum is rounded once: added to
    a W0 x that was rounded already, an update at a learning rate of 1e-6 is lost in bf16.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w0: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), (b * s).to(x.dtype)
        low = rows @ a.T
        y = nn.functional.linear(torch.cat([rows, low], 1), torch.cat([w0, b], 1), bias)
        ctx.save_for_backward(rows, w0, a, b, low)
        ctx.scale = s
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | float | None, ...]:
        rows, w0, a, b, low = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        down = grad @ b
        d_a = (down.T @ rows).float()
        d_b = (grad.T @ low).float().mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = (grad @ w0).addmm_(down, a).view(*grads[0].shape[:-1], a.shape[1])
        return d_x, None, None, d_a, d_b, None


class LoraLinear(Linear):
    """PEFT's LoRA layer for `nn.Linear` with one active adapter and no dropout."""

    def forward(
        self, x: Float[Tensor, "... inner"], *_: Any, **__: Any
    ) -> Float[Tensor, "... outer"]:
        name = self.active_adapters[0]
        if self.disable_adapters or name not in self.lora_A:
            return self.base_layer(x)
        base = cast(nn.Linear, self.base_layer)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return _LoraProduct.apply(x, base.weight, base.bias, a, b, self.scaling[name])
