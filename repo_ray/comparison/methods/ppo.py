"""PPO with the reward model as the only reward."""

from repo_ray.comparison.method import Method

REWARD_MODEL_ALONE = {"judge": {"enabled": False}, "rules": {"enabled": False}}

PPO = Method("ppo", "PPO", "rl", REWARD_MODEL_ALONE)
