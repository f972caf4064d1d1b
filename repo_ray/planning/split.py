"""The best division of a number of GPUs between learner, engines, reward models and judges."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import TypeVar

from repo_ray.config import Config
from repo_ray.config.rewards import JudgeConfig, RewardModelConfig
from repo_ray.config.settings import RolloutConfig
from repo_ray.planning import memory
from repo_ray.planning.architecture import Architecture
from repo_ray.planning.forecast import (
    Forecast,
    Setting,
    first_reply,
    forecast,
    generation,
    learning,
    publication,
    scorers,
)
from repo_ray.planning.memory import GIB
from repo_ray.planning.placement import Cluster, PlanError
from repo_ray.planning.plan import Plan, plan
from repo_ray.planning.speeds import Speeds
from repo_ray.planning.work import Load


@dataclass(frozen=True)
class Split:
    """GPUs of each role in the best plan, and what it gives."""

    config: Config
    plan: Plan
    forecast: Forecast

    @property
    def gpus(self) -> float:
        return sum(place.bundle.gpus for place in self.plan.places)


@dataclass(frozen=True)
class _Choice:
    """GPUs of one role, the seconds that a step's length grows with, and what makes a config so."""

    gpus: float
    seconds: tuple[float, ...]
    change: Callable[[Config], Config]

    def replaces(self, other: _Choice) -> bool:
        """Whether it is nowhere worse."""
        return all(
            a <= b
            for a, b in zip((self.gpus, *self.seconds), (other.gpus, *other.seconds), strict=True)
        )


_Section = TypeVar("_Section", RolloutConfig, RewardModelConfig, JudgeConfig)


def best_split(
    config: Config,
    architecture: Architecture,
    node: Cluster,
    speeds: Speeds,
    load: Load,
    gpus: int,
) -> Split:
    """The fastest step on at most `gpus` GPUs in nodes like `node`, with as few as give it.

    Tried are every number of learner ranks, engines, reward models and local judges up to one
    sample each, and tensor parallelism in powers of two up to a node; every other setting stays.
    More GPUs are never slower, as some may stay unused.

    Raises:
        PlanError: no division fits. The message says which role needs more.
    """
    cluster = replace(node, nodes=ceil(gpus / node.gpus))
    base = Setting(_on_gpus(config), architecture, cluster, speeds, load)
    options = {
        "learner": _learners(base, gpus),
        "rollout": _engines(base, gpus),
        "reward_model": _scorers(base, gpus, "reward_model", config.reward_model.enabled),
        "judge": _scorers(
            base, gpus, "judge", config.judge.enabled and config.judge.kind == "local"
        ),
    }
    for role, choices in options.items():
        if not choices:
            raise PlanError(f"{role}: not even {gpus} GPUs of {node.gpu_memory_gib:g} GiB hold it")
    least = {role: choices[0].gpus for role, choices in options.items()}
    if sum(least.values()) > gpus:
        needs = ", ".join(f"{role} {count:g}" for role, count in least.items() if count)
        raise PlanError(f"{sum(least.values()):g} GPUs are needed at least ({needs})")
    found: list[tuple[float, float, Config, Forecast]] = []
    for chosen in product(*options.values()):
        taken = sum(choice.gpus for choice in chosen)
        if taken > gpus:
            continue
        candidate = base.config
        for choice in chosen:
            candidate = choice.change(candidate)
        predicted = forecast(replace(base, config=candidate))
        found.append((predicted.step_s, taken, candidate, predicted))
    reason: PlanError | None = None
    for _, _, candidate, predicted in sorted(found, key=lambda f: f[:2]):
        try:
            return Split(candidate, plan(candidate, architecture, cluster), predicted)
        except PlanError as error:
            reason = reason or error
    assert reason is not None
    raise reason


def _on_gpus(config: Config) -> Config:
    """Every model on GPUs of its own."""
    sections = {
        "learner": config.learner.model_copy(update={"gpus": 1.0}),
        "rollout": _pooled(config.rollout, gpus=float(config.rollout.tensor_parallel)),
        "reward_model": _pooled(config.reward_model, gpus=config.reward_model.pool.gpus or 1.0),
    }
    if config.judge.kind == "local":
        sections["judge"] = _pooled(config.judge, gpus=config.judge.pool.gpus or 1.0)
    return config.model_copy(update=sections)


def _pooled(section: _Section, **changes: float) -> _Section:
    pool = section.pool.model_copy(update={"autoscale": None, **changes})
    return section.model_copy(update={"pool": pool})


def _learners(base: Setting, gpus: int) -> list[_Choice]:
    config = base.config
    choices: list[_Choice] = []
    for world in _shares(config.run.batch_size // config.algorithm.minibatches, gpus):

        def change(config: Config, world: int = world) -> Config:
            learner = config.learner.model_copy(update={"world_size": world})
            return config.model_copy(update={"learner": learner})

        setting = replace(base, config=change(config))
        used = sum(memory.learner(setting.config, base.architecture).values())
        if used <= base.cluster.gpu_memory_gib * GIB:
            choices.append(_Choice(float(world), (learning(setting).seconds,), change))
    return _front(choices)


def _engines(base: Setting, gpus: int) -> list[_Choice]:
    choices: list[_Choice] = []
    device = base.cluster.gpu_memory_gib * GIB
    parallel = 1
    while parallel <= base.cluster.gpus and base.architecture.heads % parallel == 0:
        for engines in _shares(base.config.run.batch_size, gpus // parallel):

            def change(config: Config, engines: int = engines, parallel: int = parallel) -> Config:
                rollout = _pooled(config.rollout, replicas=engines, gpus=float(parallel))
                rollout = rollout.model_copy(update={"tensor_parallel": parallel})
                return config.model_copy(update={"rollout": rollout})

            setting = replace(base, config=change(base.config))
            items = memory.engine(setting.config, base.architecture, device)
            tokens = memory.kv_tokens(setting.config, base.architecture, items["KV cache"])
            if tokens < setting.config.rollout.max_model_len or sum(items.values()) > device:
                break
            role = generation(setting)
            seconds = (
                role.seconds,
                first_reply(setting, role),
                publication(setting)[1].seconds,
            )
            choices.append(_Choice(float(engines * parallel), seconds, change))
        parallel *= 2
    return _front(choices)


def _scorers(base: Setting, gpus: int, role: str, enabled: bool) -> list[_Choice]:
    if not enabled:
        return [_Choice(0.0, (0.0,), lambda config: config)]
    each = getattr(base.config, role).pool.gpus
    used = sum(memory.scorer(base.config, base.architecture, each).values())
    if used > base.cluster.gpu_memory_gib * GIB:
        return []
    choices: list[_Choice] = []
    for replicas in _shares(base.config.run.batch_size, int(gpus / each)):

        def change(config: Config, replicas: int = replicas) -> Config:
            section = _pooled(getattr(config, role), replicas=replicas)
            return config.model_copy(update={role: section})

        setting = replace(base, config=change(base.config))
        seconds = next(r.seconds for r in scorers(setting) if r.name == role)
        choices.append(_Choice(each * replicas, (seconds,), change))
    return _front(choices)


def _shares(samples: int, most: int) -> Iterable[int]:
    """Numbers of actors that differ in the largest share of `samples`, the fewest for each."""
    return sorted({ceil(samples / share) for share in range(1, samples + 1)} & set(range(most + 1)))


def _front(choices: list[_Choice]) -> list[_Choice]:
    """Those that no other replaces, the one with the fewest GPUs first."""
    front: list[_Choice] = []
    for choice in sorted(choices, key=lambda c: (c.gpus, c.seconds)):
        if not any(other.replaces(choice) for other in front):
            front.append(choice)
    return front
