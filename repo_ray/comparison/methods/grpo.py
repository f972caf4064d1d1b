"""GRPO (Shao et al. 2024, arXiv 2402.03300): groups of replies instead of a value network.

Its reward is the reward model alone, as PPO's; the paper does not say which it gave GRPO.
"""

from repo_ray.comparison.method import Method
from repo_ray.comparison.methods.ppo import REWARD_MODEL_ALONE

GROUPS = {"algorithm": {"advantage": "group", "group_size": 8}}

GRPO = Method("grpo", "GRPO", "rl", {**REWARD_MODEL_ALONE, **GROUPS})
