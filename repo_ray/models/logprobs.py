"""Log-probabilities of given tokens without ever holding [N, vocab] logits.

Each token's log-probability depends on its own hidden state alone, so its gradient is one vector
[H], known as soon as the logits are. The forward pass works in chunks of tokens, keeps that
vector and drops the logits; the backward pass is then one scaling, with no second product with
the vocabulary matrix (and, under ZeRO-3, no need to gather it again).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def _distribution(
    logits: Tensor, targets: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Log-probabilities [n] and entropies [n] of `logits` [n, vocab], and what they are per logit.

    The derivatives are in the type of `logits`: d log p_y / dz = onehot(y) - p and
    dH / dz = -p (log p + H), by the temperature. Few passes over memory, as that is what it costs.
    """
    z = logits.float().div_(temperature)
    z -= z.amax(-1, keepdim=True)
    p = z.exp()
    total = p.sum(-1)
    log_total = total.log()
    logprobs = z.gather(1, targets[:, None])[:, 0] - log_total
    entropy = log_total - torch.linalg.vecdot(p, z) / total
    scale = -1 / (temperature * total)
    flatten = None
    if entropy_gradient:
        flatten = (p * (z + (entropy - log_total)[:, None]) * scale[:, None]).to(logits.dtype)
    p.scatter_add_(1, targets[:, None], -total[:, None])  # before rounding: p may be close to 1
    return logprobs, entropy, p.mul_(scale[:, None]).to(logits.dtype), flatten


#: (logits, targets, temperature, entropy gradient) -> as `_distribution`.
Distribution = Callable[[Tensor, Tensor, float, bool], tuple[Tensor, Tensor, Tensor, Tensor | None]]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        entropy_gradient: bool,
        distribution: Distribution,
    ) -> tuple[Tensor, Tensor]:
        count = hidden.shape[0]
        logprobs = torch.empty(count, dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        need = hidden.requires_grad
        d_logprob = torch.empty_like(hidden) if need else None
        d_entropy = torch.empty_like(hidden) if need and entropy_gradient else None
        for start in range(0, count, chunk):
            part = slice(start, min(start + chunk, count))
            logits = hidden[part] @ weight.T
            logprobs[part], entropy[part], toward, flatten = distribution(
                logits, targets[part], temperature, entropy_gradient
            )
            if d_logprob is not None:
                d_logprob[part] = toward @ weight
            if d_entropy is not None and flatten is not None:
                d_entropy[part] = flatten @ weight
        ctx.save_for_backward(d_logprob, d_entropy)
        if d_entropy is None:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_logprob, d_entropy = ctx.saved_tensors
        gradient = grads[0][:, None] * d_logprob
        if d_entropy is not None:
            gradient = gradient + grads[1][:, None] * d_entropy
        return gradient.to(d_logprob.dtype), None, None, None, None, None, None


def token_logprobs(
    hidden: Float[Tensor, "n hidden"],
    weight: Float[Tensor, "vocab hidden"],
    targets: Int[Tensor, " n"],
    temperature: float,
    chunk: int,
    entropy_gradient: bool = False,
    distribution: Distribution = _distribution,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Log-probability (nats) of each target and entropy (nats) of each distribution, float32.

    The distribution is softmax(hidden @ weight.T / temperature); the product is taken in the
    common type of `hidden` and `weight`, everything after it in float32. `weight` gets no
    gradient (it is frozen); `entropy` carries one only with `entropy_gradient`, which costs one
    more product with the vocabulary matrix. At most `chunk` rows of logits exist at a time.
    `distribution` may be a compiled form of the default.

    Raises:
        ValueError: `hidden` is not 2-D or `weight` requires a gradient.
    """
    if hidden.ndim != 2:
        raise ValueError(f"hidden must be [tokens, hidden size], got {tuple(hidden.shape)}")
    if weight.requires_grad:
        raise ValueError("the vocabulary matrix must be frozen: it would get no gradient")
    logprobs, entropy = _TokenLogprobs.apply(
        hidden, weight, targets, temperature, chunk, entropy_gradient, distribution
    )
    return logprobs, entropy


class LogprobHead(nn.Module):
    """`token_logprobs` with the model's own output matrix.

    A module that owns the (shared) parameter, so that ZeRO-3 gathers it around the call.
    """

    def __init__(self, output: nn.Module, temperature: float, chunk: int, entropy: bool) -> None:
        super().__init__()
        bias = getattr(output, "bias", None)
        if bias is not None:
            raise ValueError("output layers with a bias are not supported")
        self.weight = cast(nn.Parameter, output.weight)
        self.temperature = temperature
        self.chunk = chunk
        self.entropy = entropy
        self._distribution: Distribution = _distribution

    def compile_distribution(self) -> None:
        self._distribution = torch.compile(_distribution, dynamic=True)

    def forward(
        self, hidden: Float[Tensor, "n hidden"], targets: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return token_logprobs(
            hidden,
            self.weight,
            targets,
            self.temperature,
            self.chunk,
            self.entropy,
            self._distribution,
        )
