"""Settings of a pool of actors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from repo_ray.config.base import Labels, NonNegative, Positive, PositiveFloat, Settings


class PoolConfig(Settings):
    """One pool of actors of the same kind."""

    replicas: NonNegative = Field(
        1, description="Actors at start; `repo-ray scale` changes it while the run goes on."
    )
    cpus: Annotated[float, Field(ge=0)] = Field(
        1.0, description="CPUs reserved per actor (fractions allowed)."
    )
    gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs reserved per actor.")
    threads: Positive = Field(
        1,
        description="OMP/torch threads per actor; on CPU, more than the cores in all makes everything slower.",
    )
    max_in_flight: Positive = Field(
        16, description="Calls in flight per actor; more wait in the pool's queue."
    )
    max_queue: Positive = Field(
        4096,
        description="Calls waiting in the pool; a full queue makes callers wait (back-pressure).",
    )
    timeout_s: PositiveFloat = Field(
        120.0, description="Limit of one call; a call over it fails and the actor is checked."
    )
    start_timeout_s: PositiveFloat = Field(300.0, description="Limit for an actor to come up.")
    max_restarts: NonNegative = Field(
        20,
        description="Restarts per wanted actor before the run stops. A lost node restarts all of its actors at once; waiting for a place is no restart.",
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources per actor, for placement."
    )
    labels: Labels = Field(
        default_factory=dict,
        description="Labels that the node of every actor must have, such as {repo-ray/role: judge}; nodes get theirs by `ray start --labels`. Empty: any node.",
    )
