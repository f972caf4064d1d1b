"""The methods of the paper's table, one file each, and variants of REPO's reward beside them."""

from __future__ import annotations

from collections.abc import Mapping

from repo_ray.comparison.method import Method
from repo_ray.comparison.methods.combinations import COMBINATIONS
from repo_ray.comparison.methods.dpo import DPO
from repo_ray.comparison.methods.grpo import GRPO
from repo_ray.comparison.methods.ppo import PPO
from repo_ray.comparison.methods.repo import REPO
from repo_ray.comparison.methods.sft import SFT

#: In the order of the table.
METHODS: Mapping[str, Method] = {m.name: m for m in (SFT, DPO, PPO, GRPO, REPO, *COMBINATIONS)}
