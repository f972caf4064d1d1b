"""A plan in words."""

from __future__ import annotations

from itertools import groupby

from repo_ray.config import Config
from repo_ray.planning.memory import GIB
from repo_ray.planning.placement import Place
from repo_ray.planning.plan import Plan


def describe(config: Config, plan: Plan) -> str:
    """What would run where, with the memory of each kind of actor, as plain text."""
    architecture, cluster = plan.architecture, plan.cluster
    gpus = f", {cluster.gpus} GPUs of {cluster.gpu_memory_gib:g} GiB" if cluster.gpus else ""
    adapter = architecture.lora_parameters(config.lora.rank, config.lora.target_modules)
    lines = [
        f"model     {config.model.path}: {architecture.parameters / 1e9:.2f} B parameters, "
        f"adapter {adapter / 1e6:.1f} M at rank {config.lora.rank}",
        f"cluster   {cluster.nodes} node(s), each with {cluster.cpus:g} CPUs, "
        f"{cluster.memory_gib:g} GiB{gpus}",
        f"learner   ZeRO-{config.learner.zero_stage} over {config.learner.world_size} rank(s), "
        f"batch {config.run.batch_size}, micro-batches of {config.learner.micro_batch_tokens} tokens",
        f"rollout   {config.rollout.pool.replicas} engine(s), tensor parallel "
        f"{config.rollout.tensor_parallel}, KV cache for {plan.kv_tokens} tokens each",
        f"judge     {_judge(config)}",
        "",
    ]
    for role, group in groupby(plan.places, key=lambda p: p.bundle.name.rpartition("-")[0]):
        lines += _role(role, list(group))
    for node in range(cluster.nodes):
        lines += _node(plan, node)
    lines += [f"note: {remark}" for remark in plan.remarks]
    return "\n".join(lines)


def _judge(config: Config) -> str:
    if not config.judge.enabled:
        return "off"
    if config.judge.kind == "endpoint":
        return f"{config.judge.model} at {config.judge.base_url}"
    return "local: the base model with a judge adapter"


def _role(role: str, places: list[Place]) -> list[str]:
    bundle = places[0].bundle
    unit = "per GPU" if bundle.gpus else "of main memory"
    lines = [
        f"{role} x {len(places)}: {bundle.cpus:g} CPUs, {bundle.gpus:g} GPUs each; "
        f"{bundle.device_bytes / GIB:.2f} GiB {unit}"
    ]
    lines += [f"    {name:26} {size / GIB:8.2f} GiB" for name, size in bundle.memory.items()]
    return lines


def _node(plan: Plan, node: int) -> list[str]:
    here = [p for p in plan.places if p.node == node]
    cpus = sum(p.bundle.cpus for p in here)
    main = sum(p.bundle.device_bytes for p in here if not p.gpus)
    lines = [
        f"node {node}: {cpus:g} of {plan.cluster.cpus:g} CPUs, {main / GIB:.1f} of "
        f"{plan.cluster.memory_gib:g} GiB for actors without a GPU"
    ]
    on_cpu = [p.bundle.name for p in here if not p.gpus]
    if on_cpu:
        lines.append(f"    CPU    {', '.join(on_cpu)}")
    for gpu in range(plan.cluster.gpus):
        users = [p.bundle for p in here if gpu in p.gpus]
        names = ", ".join(bundle.name for bundle in users) or "free"
        used = sum(bundle.device_bytes for bundle in users) / GIB
        lines.append(f"    GPU {gpu}  {names}: {used:.1f} of {plan.cluster.gpu_memory_gib:g} GiB")
    return lines
