"""REPO's algorithm with another reward: other ways to combine the sources, or one source less."""

from __future__ import annotations

from repo_ray.comparison.method import Method
from repo_ray.comparison.methods.grpo import GROUPS

COMBINATIONS = (
    Method("weighted_sum", "Weighted sum", "rl", {"enhancement": {"combine": "weighted_sum"}}),
    Method(
        "normalised_sum",
        "Normalised, then summed",
        "rl",
        {"enhancement": {"combine": "normalised_sum"}},
    ),
    Method("rule_gated", "Gated by rules", "rl", {"enhancement": {"combine": "rule_gated"}}),
    # Without a reward model R_model is 1, so the reward is the multiplier, never negative. Until the
    # value network knows that, a lambda below 1 credits the last tokens and teaches short replies.
    Method(
        "no_reward_model",
        "REPO without reward model",
        "rl",
        {"reward_model": {"enabled": False}, "algorithm": {"gae_lambda": 1.0}},
    ),
    Method("no_judge", "REPO without judge", "rl", {"judge": {"enabled": False}}),
    Method("no_rules", "REPO without rules", "rl", {"rules": {"enabled": False}}),
    Method("repo_grpo", "REPO's reward, GRPO's advantage", "rl", GROUPS),
)
