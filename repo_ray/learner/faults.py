"""What is wrong with a batch before an update, or with the numbers of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from repo_ray.config.learning import AlgorithmConfig, LearnerConfig
from repo_ray.records import Experience


def problem(batch: Sequence[Experience], algorithm: AlgorithmConfig) -> str:
    """Why nothing can be learned from `batch`, or nothing."""
    if not any(any(e.rollout.loss_mask) for e in batch):
        return "empty batch: no response token that the loss counts"
    for e in batch:
        if not math.isfinite(e.reward.total):
            return f"sample {e.rollout.sample_id}: reward is {e.reward.total}"
        if not all(math.isfinite(reward) for _, reward in e.token_rewards):
            return f"sample {e.rollout.sample_id}: a token's reward is not finite"
        if not all(map(math.isfinite, e.rollout.logprobs)):
            return f"sample {e.rollout.sample_id}: a behaviour log-probability is not finite"
    prompts = [e.prompt.prompt_id for e in batch]
    if algorithm.advantage == "group" and len(set(prompts)) == len(prompts):
        return "no prompt has two replies in the batch: there is nothing to compare"
    return ""


def warnings(metrics: Mapping[str, float], learner: LearnerConfig) -> list[str]:
    """What a person should know of an update that had no `problem` beforehand."""
    found = []
    if metrics["advantages_zero"]:
        found.append("every advantage is 0: the policy learned nothing from this batch")
    if metrics.get("value_diverged"):
        found.append(
            f"the value network diverges: its error is {metrics['value_error']:.3g} (RMS, in units "
            "of the reward). If it stays so, run again under another name with a lower "
            f"learner.value_lr (now {learner.value_lr:g}) or more learner.warmup_steps (now "
            f"{learner.warmup_steps})"
        )
    if metrics["steps_applied"] and metrics["steps_skipped"]:
        tried = metrics["steps_applied"] + metrics["steps_skipped"]
        found.append(
            f"{metrics['steps_skipped']:g} of {tried:g} optimizer steps skipped: non-finite gradient"
        )
    return found
