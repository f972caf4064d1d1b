"""Group-relative advantages: replies to one prompt are compared with each other.

Shao et al. 2024 (GRPO, arXiv 2402.03300), section 4.1, eq. 3, with outcome rewards (4.1.2): every
token of a reply has the advantage (r - mean) / std of its group, and there is no value network.
The loss is `algorithms.ppo.policy_loss`, as for REPO and PPO: no reference model and no KL term
(the paper's beta is 0).

It is averaged over the response tokens of the whole (mini)batch, so every token counts the same.
The paper's eq. 3 averages over each reply's tokens first and over replies then, which makes the
tokens of short replies count more. TRL 1.16 calls the paper's average `loss_type="grpo"` and this
one `"dapo"` (Yu et al. 2025, arXiv 2503.14476, eq. 8), its default.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

#: Below this standard deviation a group's rewards count as equal. In their units, or relative to
#: the largest where that is above 1: float32 rounds there.
MIN_STD = 1e-6


@dataclass(frozen=True)
class GroupAdvantages:
    """`groups` there are; of these, `lone` have one reply and `equal` have several of one reward.

    Replies of lone and equal groups have advantage 0: they teach nothing.
    """

    advantages: Float[Tensor, " batch"]
    groups: int
    lone: int
    equal: int


def group_advantages(
    rewards: Float[Tensor, " batch"], groups: Sequence[Hashable]
) -> GroupAdvantages:
    """(r - mean) / std of every reply within its group; `groups` names the group of each reply.

    The standard deviation is that of a sample (divided by n - 1). The paper does not say which;
    TRL and verl take this one. They add a small number to it, where here a group without
    variance has advantage 0.

    Raises:
        ValueError: not one group per reward.
    """
    members: dict[Hashable, list[int]] = {}
    for index, (_, group) in enumerate(zip(rewards, groups, strict=True)):
        members.setdefault(group, []).append(index)
    advantages = torch.zeros_like(rewards)
    lone = equal = 0
    for rows in members.values():
        own = rewards[rows].double()  # the mean of equal floats is not exact in float
        if len(rows) == 1:
            lone += 1
        elif (std := own.std()) < MIN_STD * own.abs().max().clamp(min=1.0):
            equal += 1
        else:
            advantages[rows] = ((own - own.mean()) / std).to(rewards.dtype)
    return GroupAdvantages(advantages, len(members), lone, equal)
