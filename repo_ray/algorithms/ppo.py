"""PPO losses as REPO uses them: no reference model, no KL term (paper, "reference-free").

Everything works on flat unmasked tokens [N] and returns *sums*, so that a batch cut into
micro-batches and ranks adds up exactly; the caller divides by the batch's token count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Cap of the decoupled objective's weight pi_proximal / pi_behaviour.
MAX_WEIGHT = 2.0

Ratio = Literal["behaviour", "decoupled"]


@dataclass(frozen=True)
class PolicyLoss:
    """Sum of the loss over tokens, and per token the ratio and whether the clip held it."""

    total: Float[Tensor, ""]
    ratio: Float[Tensor, " n"]
    clipped: Bool[Tensor, " n"]


def policy_loss(
    new: Float[Tensor, " n"],
    proximal: Float[Tensor, " n"],
    behaviour: Float[Tensor, " n"],
    advantages: Float[Tensor, " n"],
    clip: float,
    mode: Ratio,
) -> PolicyLoss:
    """Clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), summed over tokens.

    Log-probabilities are of the sampled tokens: `new` under the policy being trained,
    `behaviour` under the engine that sampled, `proximal` under the learner before this update.

    - `behaviour`: ratio pi_new / pi_behaviour; `proximal` is not used.
    - `decoupled`: ratio pi_new / pi_proximal, each token weighted by
      min(pi_proximal / pi_behaviour, 2) (Hilton et al. 2022, arXiv 2110.00641, with the weight
      capped).

    A token counts as clipped where the clipped term is the smaller one, so that the token gives
    no gradient.
    """
    anchor = behaviour if mode == "behaviour" else proximal
    ratio = torch.exp(new - anchor)
    free = ratio * advantages
    held = ratio.clamp(1.0 - clip, 1.0 + clip) * advantages
    surrogate = torch.minimum(free, held)
    if mode == "decoupled":
        surrogate = surrogate * torch.exp(proximal - behaviour).clamp(max=MAX_WEIGHT)
    return PolicyLoss(-surrogate.sum(), ratio.detach(), (held < free).detach())


def value_loss(
    new: Float[Tensor, " n"], old: Float[Tensor, " n"], returns: Float[Tensor, " n"], clip: float
) -> Float[Tensor, ""]:
    """Half the squared error, summed; the larger of the plain and the clipped prediction's.

    The clipped prediction stays within `clip` of `old` (Ziegler et al. 2019, arXiv 1909.08593,
    code).
    """
    held = old + (new - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((new - returns).square(), (held - returns).square()).sum()


# --- diagnostics -----------------------------------------------------------------------

#: The sums that `diagnostics` needs, in this order: see `diagnostic_sums`.
SUMS = ("count", "approx_kl", "mismatch_kl", "weight", "weight_squared", "clipped", "entropy")


def diagnostic_sums(
    new: Float[Tensor, " n"],
    proximal: Float[Tensor, " n"],
    behaviour: Float[Tensor, " n"],
    clipped: Bool[Tensor, " n"],
    entropy: Float[Tensor, " n"],
) -> Float[Tensor, " sums"]:
    """What `diagnostics` needs, as sums over tokens (float64), one entry per name in `SUMS`.

    Sums add over micro-batches and ranks. KLs use Schulman's k3 estimator
    (exp(d) - 1 - d >= 0, with d the log of the reverse ratio; http://joschu.net/blog/kl-approx.html).
    """
    moved = (new - proximal).double()
    gap = (proximal - behaviour).double()
    weight = gap.exp()
    return torch.stack(
        [
            torch.tensor(float(new.numel()), dtype=torch.float64, device=new.device),
            (moved.exp() - 1 - moved).sum(),
            (weight - 1 - gap).sum(),
            weight.sum(),
            weight.square().sum(),
            clipped.double().sum(),
            entropy.double().sum(),
        ]
    )


def diagnostics(sums: Float[Tensor, " sums"]) -> Mapping[str, float]:
    """Batch means from `diagnostic_sums`.

    - `approx_kl`: KL(proximal || new), how far this update has moved at the measured pass.
    - `mismatch_kl`: KL(behaviour || proximal), engine against learner on the engine's samples.
    - `ess`: effective sample size of the weights pi_proximal / pi_behaviour as a share of the
      tokens, (sum w)^2 / (n sum w^2), in (0, 1].
    - `clip_share`, `entropy`: means over tokens.
    """
    s = dict(zip(SUMS, sums.tolist(), strict=True))
    count = s["count"]
    return {
        "approx_kl": s["approx_kl"] / count,
        "mismatch_kl": s["mismatch_kl"] / count,
        "ess": s["weight"] ** 2 / (count * s["weight_squared"]),
        "clip_share": s["clipped"] / count,
        "entropy": s["entropy"] / count,
    }


def explained_variance(
    values: Float[Tensor, " n"], returns: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant.

    NaN where the returns do not vary.
    """
    variance = returns.double().var(correction=0)
    residual = (returns - values).double().var(correction=0)
    return torch.where(variance > 0, 1 - residual / variance, torch.nan)
