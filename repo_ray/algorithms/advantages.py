"""Advantage estimation: rewards placed on tokens, and what each token is worth beyond the value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Below this standard deviation advantages count as equal. In their units, or relative to the
#: largest where that is above 1: float32 rounds there.
MIN_STD = 1e-6


def reward_at_end(
    rewards: Float[Tensor, " batch"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Per-token rewards: each reply's reward on its last unmasked token, 0 elsewhere.

    Rows without any unmasked token get no reward.
    """
    time = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, time, -1).amax(1, keepdim=True)
    return torch.where(time == last, rewards[:, None], 0.0)


def placed_rewards(
    token_rewards: Sequence[Sequence[tuple[int, float]]],
    totals: Float[Tensor, " batch"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Per-token rewards: each row's (token, reward) pairs where they are placed, 0 elsewhere.

    A row without pairs gets its total on its last unmasked token, as in `reward_at_end`.

    Raises:
        ValueError: not one sequence per row, or a reward on a token that the loss does not count
            (`gae` would step over it).
    """
    rewards = reward_at_end(totals, mask)
    for row, (pairs, counted) in enumerate(zip(token_rewards, mask.tolist(), strict=True)):
        if pairs:
            rewards[row] = 0.0
        for token, reward in pairs:
            if not (0 <= token < len(counted) and counted[token]):
                raise ValueError(
                    f"row {row}: a reward is placed on token {token}, which the loss does not count"
                )
            rewards[row, token] += reward
    return rewards


def gae(
    rewards: Float[Tensor, "batch time"],
    values: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    truncated: Bool[Tensor, " batch"],
    gamma: float,
    lam: float,
    truncation: Literal["terminal", "bootstrap"] = "terminal",
    next_values: Float[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, over the unmasked
    tokens of each row in order: a masked token is stepped over, its neighbours are adjacent.
    V is the value before the token is chosen. After the last token V is 0, except for a reply in
    `truncated` under `bootstrap`: there it is `next_values`, the value of the state that the cut
    left behind.

    Returns:
        Advantages and returns (A + V), both 0 on masked tokens.

    Raises:
        ValueError: `bootstrap` without `next_values`.
    """
    if truncation == "bootstrap" and next_values is None:
        raise ValueError("truncation 'bootstrap' needs next_values")
    following = torch.zeros_like(values[:, 0])
    if truncation == "bootstrap" and next_values is not None:
        following = torch.where(truncated, next_values, following)
    running = torch.zeros_like(following)
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        keep = mask[:, t]
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(keep, delta + gamma * lam * running, running)
        following = torch.where(keep, values[:, t], following)
        advantages[:, t] = torch.where(keep, running, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def whiten(
    x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Zero mean and unit (population) variance over the unmasked entries; 0 elsewhere.

    Where all unmasked entries are equal (standard deviation below `MIN_STD`, such as a single
    token), the result is 0 everywhere: there is nothing to prefer, so there is no policy gradient.
    """
    counted = torch.where(mask, x, 0.0).double()  # the mean of equal floats is not exact in float
    count = mask.sum().clamp(min=1)
    centred = torch.where(mask, counted - counted.sum() / count, 0.0)
    std = (centred.square().sum() / count).sqrt()
    least = MIN_STD * counted.abs().max().clamp(min=1.0)
    whitened = torch.where(std < least, 0.0, centred / std.clamp(min=MIN_STD))
    return whitened.to(x.dtype)
