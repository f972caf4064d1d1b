"""Advantages of one update's batch, by the estimator that the config names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from repo_ray.algorithms.advantages import gae, placed_rewards, whiten
from repo_ray.algorithms.grpo import group_advantages
from repo_ray.algorithms.ppo import value_error
from repo_ray.config.learning import AlgorithmConfig
from repo_ray.learner.table import Table
from repo_ray.records import Experience


def estimate(
    table: Table, batch: Sequence[Experience], algorithm: AlgorithmConfig
) -> dict[str, float]:
    """Fills the table's advantages, and its returns where there are values. Returns metrics.

    `advantages_zero` is 1 where no token has an advantage, so that the policy learns nothing.
    """
    totals = torch.tensor([*(e.reward.total for e in batch), 0.0])
    rewards = placed_rewards([*(e.token_rewards for e in batch), ()], totals, table.mask)
    if algorithm.advantage == "group":
        metrics = _from_groups(table, batch, rewards)
    else:
        metrics = _from_values(table, batch, rewards, algorithm)
    return {**metrics, "advantages_zero": float(not table.advantages[table.mask].any())}


def _from_values(
    table: Table,
    batch: Sequence[Experience],
    rewards: Float[Tensor, "b t"],
    algorithm: AlgorithmConfig,
) -> dict[str, float]:
    """The metric `advantage_std` is from before whitening."""
    truncated = torch.tensor([*(e.rollout.finish_reason == "length" for e in batch), False])
    table.advantages, table.returns = gae(
        rewards,
        table.old_values,
        table.mask,
        truncated,
        algorithm.gamma,
        algorithm.gae_lambda,
        algorithm.truncation,
        table.next_values,
    )
    std = table.advantages[table.mask].double().std(correction=0)
    if algorithm.whiten_advantages:
        table.advantages = whiten(table.advantages, table.mask)
    nothing = torch.zeros_like(rewards)
    to_go, _ = gae(rewards, nothing, table.mask, truncated, algorithm.gamma, lam=1.0)
    error, diverged = value_error(table.old_values[table.mask], to_go[table.mask])
    return {
        "advantage_std": float(std),
        "value_error": error,
        "value_diverged": float(diverged),
    }


def _from_groups(
    table: Table, batch: Sequence[Experience], rewards: Float[Tensor, "b t"]
) -> dict[str, float]:
    """Groups are the replies of `batch` to one prompt; a reply's reward is the sum of its own."""
    found = group_advantages(rewards[:-1].sum(1), [e.prompt.prompt_id for e in batch])
    table.advantages[:-1] = found.advantages[:, None] * table.mask[:-1]
    return {
        "groups": float(found.groups),
        "lone_groups": float(found.lone),
        "equal_groups": float(found.equal),
    }
