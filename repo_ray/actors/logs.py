"""What an actor logs goes to Ray's log of its worker process, which the dashboard shows."""

from __future__ import annotations

import logging

import ray

from repo_ray.logs import CONTEXT, in_context


def log_as_actor(run: str) -> None:
    """For an actor's constructor: its log lines carry the run, the actor's name and its step."""
    CONTEXT.run = run
    CONTEXT.role = ray.get_runtime_context().get_actor_name() or "actor"
    logger = logging.getLogger("repo_ray")
    logger.setLevel(logging.INFO)
    logger.handlers = [in_context(logging.StreamHandler())]
    logger.propagate = False
