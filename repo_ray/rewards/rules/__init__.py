"""Programmatic reward functions: deterministic checks of one reply, each with points."""

from repo_ray.rewards.rules.registry import Rule, rule
from repo_ray.rewards.rules.rule_set import PointedRule, RuleSet, load_rules

__all__ = ["PointedRule", "Rule", "RuleSet", "load_rules", "rule"]
