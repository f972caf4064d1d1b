"""Settings of a pool of actors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from repo_ray.config.base import Labels, NonNegative, Positive, PositiveFloat, Settings


class AutoscaleConfig(Settings):
    """Sets the pool's number of actors by how long calls wait for a slot; null: only `repo-ray scale` does. `pool.max_in_flight` has to be what one actor can really do at once, or nothing ever waits."""

    min: Positive = Field(
        1, description="Fewest actors; with none, the first calls would wait for a start."
    )
    max: Positive = Field(
        8,
        description="Most actors, a bound on cost. More than the cluster or a rate limit allows is of no use: `repo-ray plan` says what fits, and an actor that is not up within start_timeout_s is given up for a cool-down.",
    )
    queue_target_s: Annotated[float, Field(ge=1)] = Field(
        5.0,
        description="Seconds that calls may wait for a slot: little beside a collect phase of half a minute or more. Waiting is looked at every second.",
    )
    cooldown_s: PositiveFloat = Field(
        60.0,
        description="Seconds of work (silence between two batches is not counted) in which fewer actors would have done, before some are drained: longer than most actors take to start.",
    )
    idle_s: PositiveFloat = Field(
        1800.0,
        description="Seconds without any call before the pool goes down to `min`; longer than a learner step, during which scoring pools have nothing to do.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> AutoscaleConfig:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max})")
        if self.cooldown_s < self.queue_target_s:
            raise ValueError(
                f"cooldown_s ({self.cooldown_s:g}) is shorter than queue_target_s "
                f"({self.queue_target_s:g}): the pool would shrink before a wait could show"
            )
        return self


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
    autoscale: AutoscaleConfig | None = Field(
        None, description="Bounds and targets of the pool's own scaling; null: off."
    )

    @model_validator(mode="after")
    def _within_bounds(self) -> PoolConfig:
        scaling = self.autoscale
        if scaling and not scaling.min <= self.replicas <= scaling.max:
            raise ValueError(
                f"replicas ({self.replicas}) must lie between autoscale.min ({scaling.min}) and "
                f"autoscale.max ({scaling.max})"
            )
        return self
