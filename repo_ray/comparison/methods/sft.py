"""Supervised fine-tuning: the warm start goes on with more demonstrations (settings: `sft`)."""

from repo_ray.comparison.method import Method

SFT = Method("sft", "SFT", "sft")
