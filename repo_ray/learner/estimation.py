"""Advantages of one update's batch, by the estimator that the config names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
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
    rewards = _rewards(table, batch, list(range(len(batch) + 1)))
    if algorithm.advantage == "group":
        metrics = _from_groups(table, batch, rewards)
    else:
        metrics = _from_values(table, batch, rewards, algorithm)
    return {**metrics, "advantages_zero": float(not table.advantages[table.mask].any())}


def returns(
    table: Table, batch: Sequence[Experience], rows: Sequence[int], algorithm: AlgorithmConfig
) -> Float[Tensor, "rows t"]:
    """What `estimate` fills in as the returns of `rows`, from the table's old values of these."""
    return _gae(table, batch, rows, _rewards(table, batch, rows), algorithm)[1]


def _rewards(
    table: Table, batch: Sequence[Experience], rows: Sequence[int]
) -> Float[Tensor, "rows t"]:
    """Per token; the row after the last of `batch` is the filler's, which has none."""
    samples = [batch[r] if r < len(batch) else None for r in rows]
    totals = torch.tensor([e.reward.total if e else 0.0 for e in samples])
    return placed_rewards([e.token_rewards if e else () for e in samples], totals, table.mask[rows])


def _truncated(batch: Sequence[Experience], rows: Sequence[int]) -> Bool[Tensor, " rows"]:
    return torch.tensor(
        [r < len(batch) and batch[r].rollout.finish_reason == "length" for r in rows]
    )


def _gae(
    table: Table,
    batch: Sequence[Experience],
    rows: Sequence[int],
    rewards: Float[Tensor, "rows t"],
    algorithm: AlgorithmConfig,
) -> tuple[Float[Tensor, "rows t"], Float[Tensor, "rows t"]]:
    return gae(
        rewards,
        table.old_values[rows],
        table.mask[rows],
        _truncated(batch, rows),
        algorithm.gamma,
        algorithm.gae_lambda,
        algorithm.truncation,
        table.next_values[rows],
    )


def _from_values(
    table: Table,
    batch: Sequence[Experience],
    rewards: Float[Tensor, "b t"],
    algorithm: AlgorithmConfig,
) -> dict[str, float]:
    """The metric `advantage_std` is from before whitening."""
    rows = list(range(len(batch) + 1))
    table.advantages, table.returns = _gae(table, batch, rows, rewards, algorithm)
    std = table.advantages[table.mask].double().std(correction=0)
    if algorithm.whiten_advantages:
        table.advantages = whiten(table.advantages, table.mask)
    nothing = torch.zeros_like(rewards)
    to_go, _ = gae(rewards, nothing, table.mask, _truncated(batch, rows), algorithm.gamma, lam=1.0)
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
