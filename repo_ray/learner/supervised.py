"""The supervised stages. Each trains on rows of the split `train`, measures on `heldout`, saves."""

from repo_ray.learner.judge_training import JudgeResult, train_judge
from repo_ray.learner.reward_training import RewardModelResult, train_reward_model
from repo_ray.learner.warm_start import SftResult, train_sft

__all__ = [
    "JudgeResult",
    "RewardModelResult",
    "SftResult",
    "train_judge",
    "train_reward_model",
    "train_sft",
]
