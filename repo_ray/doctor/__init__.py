"""Checks of a machine or cluster before a run: each is one line that says what to do."""

from repo_ray.doctor.check import Check, Status

__all__ = ["Check", "Status"]
