"""Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290; settings: `dpo`).

Its reference is the warm start, from which it also begins.
"""

from repo_ray.comparison.method import Method

DPO = Method("dpo", "DPO", "dpo")
