"""Direct preference optimisation: the loss of a pair of replies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DpoLoss:
    """Per pair. `right` is 1 where the implicit reward prefers the chosen reply, 0.5 for a tie.

    The implicit rewards are beta (log pi - log pi_ref), without a gradient.
    """

    loss: Float[Tensor, " pairs"]
    chosen_rewards: Float[Tensor, " pairs"]
    rejected_rewards: Float[Tensor, " pairs"]
    right: Float[Tensor, " pairs"]

    @property
    def margins(self) -> Float[Tensor, " pairs"]:
        """Implicit reward of the chosen reply less that of the rejected one."""
        return self.chosen_rewards - self.rejected_rewards


def dpo_loss(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    beta: float,
) -> DpoLoss:
    """-log sigmoid(beta log(pi_w / ref_w) - beta log(pi_l / ref_l)) (Rafailov et al. 2023, arXiv
    2305.18290, eq. 7).

    Arguments are log-probabilities (nats) of whole replies, summed over their tokens. Where
    policy and reference agree the loss is ln 2.
    """
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    loss = -torch.nn.functional.logsigmoid(chosen - rejected)
    chosen, rejected = chosen.detach(), rejected.detach()
    return DpoLoss(loss, chosen, rejected, 0.5 * (1.0 + torch.sign(chosen - rejected)))
