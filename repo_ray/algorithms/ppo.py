"""PPO losses as REPO uses them: no reference model and no KL term.

Everything is per token on flat unmasked tokens [N]; the caller sums and divides by the token
count of the whole (mini)batch, so that micro-batches and ranks add up exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Cap of the decoupled objective's weight pi_proximal / pi_behaviour.
MAX_WEIGHT = 2.0
#: Values diverge where their RMS error is so many times the rewards' size. Predicting 0 gives 1.
DIVERGED = 10.0

Ratio = Literal["behaviour", "decoupled"]


@dataclass(frozen=True)
class PolicyLoss:
    """Per token: the loss, and whether the clip took its gradient away."""

    loss: Float[Tensor, " n"]
    clipped: Bool[Tensor, " n"]


def policy_loss(
    new: Float[Tensor, " n"],
    proximal: Float[Tensor, " n"],
    behaviour: Float[Tensor, " n"],
    advantages: Float[Tensor, " n"],
    clip: float,
    mode: Ratio,
) -> PolicyLoss:
    """Clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), negated, per token.

    Log-probabilities (nats) are of the sampled tokens: `new` under the policy being trained,
    `behaviour` under the engine that sampled, `proximal` under the learner before this update.

    - `behaviour`: ratio pi_new / pi_behaviour; `proximal` is not used.
    - `decoupled`: ratio pi_new / pi_proximal, each token weighted by
      min(pi_proximal / pi_behaviour, 2) (Hilton et al. 2022, arXiv 2110.00641, with the weight
      capped).

    Where all advantages are 0 the loss and its gradient are 0.
    """
    anchor = behaviour if mode == "behaviour" else proximal
    ratio = torch.exp(new - anchor)
    free = ratio * advantages
    held = ratio.clamp(1.0 - clip, 1.0 + clip) * advantages
    surrogate = torch.minimum(free, held)
    if mode == "decoupled":
        surrogate = surrogate * torch.exp(proximal - behaviour).clamp(max=MAX_WEIGHT)
    return PolicyLoss(-surrogate, (held < free).detach())


def value_loss(
    new: Float[Tensor, " n"], old: Float[Tensor, " n"], returns: Float[Tensor, " n"], clip: float
) -> Float[Tensor, " n"]:
    """Half the squared error, per token; the larger of the plain and the clipped prediction's.

    The clipped prediction stays within `clip` of `old` (Ziegler et al. 2019, arXiv 1909.08593,
    published code).
    """
    held = old + (new - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((new - returns).square(), (held - returns).square())


# --- diagnostics -----------------------------------------------------------------------


def kl(sampler: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> float:
    """Mean KL(sampler || other) from log-probabilities of tokens that `sampler` drew.

    Schulman's k3 estimator, exp(d) - 1 - d with d = other - sampler: never negative
    (http://joschu.net/blog/kl-approx.html).
    """
    d = (other - sampler).double()
    return float((d.exp() - 1 - d).mean())


def effective_sample_size(behaviour: Float[Tensor, " n"], proximal: Float[Tensor, " n"]) -> float:
    """(sum w)^2 / (n sum w^2) of the weights w = pi_proximal / pi_behaviour: a share in (0, 1]."""
    gap = (proximal - behaviour).double()
    weight = (gap - gap.max()).exp()  # the share does not change with a common factor
    return float(weight.sum().square() / (len(weight) * weight.square().sum()))


def explained_variance(values: Float[Tensor, " n"], returns: Float[Tensor, " n"]) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant.

    NaN where the returns do not vary.
    """
    variance = float(returns.double().var(correction=0))
    residual = float((returns - values).double().var(correction=0))
    return 1.0 - residual / variance if variance > 0 else float("nan")


def value_error(
    values: Float[Tensor, " n"], rewards_to_go: Float[Tensor, " n"]
) -> tuple[float, bool]:
    """RMS error of the values, and whether they diverge: `DIVERGED` times the RMS of what they
    should predict, or `DIVERGED` where that is below 1 (a step of rewards near 0 proves nothing;
    the reward model is scaled to a standard deviation of 1). NaN diverges.

    `rewards_to_go` are sums of rewards alone. GAE's returns contain values and would follow them:
    values that are all off by the same leave an explained variance of 0, not below.
    """
    error = float((values - rewards_to_go).double().square().mean().sqrt())
    size = float(rewards_to_go.double().square().mean().sqrt())
    return error, not error <= DIVERGED * max(1.0, size)
