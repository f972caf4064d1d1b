"""REPO, as the common config has it: three sources, one trajectory per prompt, a value network."""

from repo_ray.comparison.method import Method

REPO = Method("repo", "REPO", "rl")
