"""What a config would run where, and whether it fits: pure arithmetic, no GPU needed."""

from repo_ray.planning.architecture import Architecture, ArchitectureError, read_architecture
from repo_ray.planning.placement import Cluster, PlanError
from repo_ray.planning.plan import Plan, plan

__all__ = [
    "Architecture",
    "ArchitectureError",
    "Cluster",
    "Plan",
    "PlanError",
    "plan",
    "read_architecture",
]
