"""From a config to the actors it starts, their memory and their places."""

from __future__ import annotations

from dataclasses import dataclass

from repo_ray.config import Config
from repo_ray.config.pool import PoolConfig
from repo_ray.planning import memory
from repo_ray.planning.architecture import Architecture
from repo_ray.planning.memory import GIB, Items
from repo_ray.planning.nodes import Reservation
from repo_ray.planning.placement import Bundle, Cluster, Place, PlanError, place

#: A worker that computes rules or calls an endpoint holds no model.
_LIGHT: Items = {"process": memory.CPU_PROCESS // 2}


@dataclass(frozen=True)
class Plan:
    """What would run where. `remarks` are things a person should know but that do not stop a run."""

    architecture: Architecture
    cluster: Cluster
    places: tuple[Place, ...]
    kv_tokens: int
    remarks: tuple[str, ...]


def plan(config: Config, architecture: Architecture, cluster: Cluster) -> Plan:
    """Plans one run: learner ranks, rollout engines and scorers on `cluster`.

    Raises:
        PlanError: an actor, or all of them together, do not fit.
        ArchitectureError: a LoRA target that the model does not have.
    """
    engine = memory.engine(config, architecture, _device_gib(config, cluster) * GIB)
    kv_tokens = memory.kv_tokens(config, architecture, engine["KV cache"])
    _check_engine(config, architecture, cluster, engine, kv_tokens)
    items = {
        "learner": memory.learner(config, architecture),
        "rollout": engine,
        "reward_model": memory.scorer(config, architecture, config.reward_model.pool.gpus),
        "judge": memory.scorer(config, architecture, config.judge.pool.gpus)
        if config.judge.kind == "local"
        else _LIGHT,
        "rules": _LIGHT,
    }
    bundles = [
        Bundle(f"{r.role}-{i}", r.cpus, r.gpus, items[r.role])
        for r in reservations(config)
        for i in range(r.count)
    ]
    places = place(bundles, cluster)
    remarks = _remarks(config, cluster, kv_tokens)
    if (largest := _largest(config)) != config:
        try:
            plan(largest, architecture, cluster)
        except PlanError as error:
            remarks += (f"with every pool at its autoscale.max: {error}",)
    return Plan(architecture, cluster, tuple(places), kv_tokens, remarks)


def reservations(config: Config) -> list[Reservation]:
    """What the run reserves from Ray when all of its actors are up."""
    pools: list[tuple[str, bool, PoolConfig]] = [
        ("rollout", True, config.rollout.pool),
        ("reward_model", config.reward_model.enabled, config.reward_model.pool),
        ("judge", config.judge.enabled, config.judge.pool),
        ("rules", config.rules.enabled, config.rules.pool),
    ]
    return [
        Reservation.of("learner", config.learner.world_size, config.learner),
        *(Reservation.of(role, pool.replicas, pool) for role, on, pool in pools if on),
    ]


def _largest(config: Config) -> Config:
    """The config with every pool that scales itself at its largest."""
    sections = {}
    for name in ("rollout", "reward_model", "judge", "rules"):
        section = getattr(config, name)
        if section.pool.autoscale is not None:
            pool = section.pool.model_copy(update={"replicas": section.pool.autoscale.max})
            sections[name] = section.model_copy(update={"pool": pool})
    return config.model_copy(update=sections)


def _device_gib(config: Config, cluster: Cluster) -> float:
    return cluster.gpu_memory_gib if config.rollout.pool.gpus else cluster.memory_gib


def _check_engine(
    config: Config, architecture: Architecture, cluster: Cluster, items: Items, tokens: int
) -> None:
    rollout = config.rollout
    if rollout.pool.replicas == 0:
        raise PlanError("rollout.pool.replicas is 0: nothing would generate replies")
    if rollout.pool.gpus and rollout.pool.gpus != rollout.tensor_parallel:
        raise PlanError(
            f"rollout.pool.gpus is {rollout.pool.gpus:g}, but rollout.tensor_parallel is "
            f"{rollout.tensor_parallel}: an engine must reserve one GPU per tensor-parallel rank"
        )
    if architecture.heads % rollout.tensor_parallel:
        raise PlanError(
            f"rollout.tensor_parallel is {rollout.tensor_parallel}, which does not divide the "
            f"model's {architecture.heads} attention heads"
        )
    if tokens < rollout.max_model_len:
        weights, device = items["base weights"] / GIB, _device_gib(config, cluster)
        raise PlanError(
            f"does not fit: an engine's KV cache would hold {max(tokens, 0)} tokens, less than one "
            f"sequence of rollout.max_model_len ({rollout.max_model_len}); weights take "
            f"{weights:.1f} of {device:g} GiB per device. Raise rollout.tensor_parallel or the "
            "engine's share of memory"
        )


def _remarks(config: Config, cluster: Cluster, tokens: int) -> tuple[str, ...]:
    remarks = []
    rollout = config.rollout
    wanted = rollout.max_num_seqs * rollout.max_model_len
    if tokens < wanted:
        remarks.append(
            f"the KV cache holds {tokens} tokens: {tokens // rollout.max_model_len} of "
            f"{rollout.max_num_seqs} sequences at their longest; vLLM preempts when all are long"
        )
    pools = {"rollout": rollout.pool, "reward_model": config.reward_model.pool}
    if cluster.gpus == 0:
        threads = config.learner.world_size * config.learner.threads + sum(
            pool.replicas * pool.threads for pool in pools.values()
        )
        if config.run.staleness and threads > cluster.cpus * cluster.nodes:
            remarks.append(
                f"staleness {config.run.staleness} lets learner and engines compute at once with "
                f"{threads} threads on {cluster.cpus * cluster.nodes:g} CPUs"
            )
    special = [f"{r.role}: {r.needs}" for r in reservations(config) if r.resources or r.labels]
    if special:
        remarks.append(
            "nodes are taken as equal here; custom resources and labels are checked on the cluster "
            f"before a run starts ({'; '.join(special)})"
        )
    return tuple(remarks)
