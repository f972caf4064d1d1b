"""The independent programmatic evaluator: it knows the scenario's hidden truth.

It never feeds a training reward and shares nothing with the rewards, the rubric or the data
builder, so that the gap between the training reward and the gold score shows reward hacking.
"""

from repo_ray.evaluation.gold.judge import judge_reply
from repo_ray.evaluation.gold.scenario import knows_task
from repo_ray.evaluation.gold.verdict import Emergent, GoldVerdict, Issue, Severity, Skills

__all__ = ["Emergent", "GoldVerdict", "Issue", "Severity", "Skills", "judge_reply", "knows_task"]
