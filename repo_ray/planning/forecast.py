"""What one training step will take: seconds by role and cause, bytes, and who holds it up.

Left out: checkpoints, held-out checks, restarts, retries of invalid scores, padding, and samples
of uneven length beyond their mean and longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from repo_ray.config import Config
from repo_ray.planning import memory, work
from repo_ray.planning.architecture import Architecture
from repo_ray.planning.memory import GIB, dtype_bytes
from repo_ray.planning.placement import Cluster, PlanError
from repo_ray.planning.speeds import Speeds
from repo_ray.planning.work import Load


@dataclass(frozen=True)
class Role:
    """Seconds per step for which one actor of a role works, by cause."""

    name: str
    busy: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.busy.values())

    @property
    def cause(self) -> str:
        """What most of the time goes to."""
        return max(self.busy, key=lambda cause: self.busy[cause])


@dataclass(frozen=True)
class Forecast:
    """One step. `push_s` is publication: export, digest, copies to the nodes, load and check.

    `generation_s` is an engine's time, `scoring_s` the slowest source's; of sources that share cores
    it is the sum. `network` and `store` are bytes received over links and copied into Ray's object store, over
    all actors, by kind.
    """

    load: Load
    roles: tuple[Role, ...]
    generation_s: float
    scoring_s: float
    collect_s: float
    update_s: float
    push_s: float
    step_s: float
    network: Mapping[str, float]
    store: Mapping[str, float]

    def idle(self, role: Role) -> float:
        """Share of the step for which each actor of the role waits."""
        return max(0.0, 1 - role.seconds / self.step_s)

    @property
    def bottleneck(self) -> Role:
        """The role with the least idle time."""
        return max(self.roles, key=lambda role: role.seconds)


@dataclass(frozen=True)
class Setting:
    """What every phase is predicted from. `cluster` gives GPUs, cores and memory of a node."""

    config: Config
    architecture: Architecture
    cluster: Cluster
    speeds: Speeds
    load: Load

    def taking_turns(self, actors: int) -> float:
        """By how much actors slow each other down: on shared cores, those of a node take turns."""
        return max(1.0, actors / self.cluster.nodes) if self.speeds.shared else 1.0

    def nodes_of(self, devices: int) -> int:
        """Nodes over which that many devices are spread, packed."""
        if not self.cluster.gpus:
            return min(devices, self.cluster.nodes)
        return ceil(devices / self.cluster.gpus)

    @property
    def forward(self) -> float:
        """FLOPs per token in a forward pass over a whole sample."""
        return work.forward_flops(self.architecture, self.load.length, self.config.model.attention)


def forecast(setting: Setting) -> Forecast:
    """Predicts one step. Raises `PlanError` where an engine cannot hold one sequence."""
    config, speeds = setting.config, setting.speeds
    rollout, scoring, learner = generation(setting), scorers(setting), learning(setting)
    export, publish = publication(setting)
    generated = rollout.seconds
    seconds = [role.seconds for role in scoring]
    beside = scoring
    if speeds.shared:  # what computes takes turns with the engines; an endpoint does not
        beside = tuple(role for role in scoring if _waits(role, setting))
        generated += sum(role.seconds for role in scoring if role not in beside)
    scored = max((role.seconds for role in beside), default=0.0)
    last = max((_one(role, setting) for role in beside), default=0.0)
    collect = max(generated + last, first_reply(setting, rollout) + scored)
    update = learner.seconds
    if config.run.staleness and not speeds.shared:
        step = max(collect, update + export) + publish.seconds
    else:
        step = collect + update + export + publish.seconds
    roles = (
        Role("learner", {**learner.busy, "adapter's export": export}),
        Role("rollout", {**rollout.busy, **publish.busy}),
        *scoring,
    )
    return Forecast(
        load=setting.load,
        roles=roles,
        generation_s=rollout.seconds,
        scoring_s=sum(seconds) if speeds.shared else max(seconds, default=0.0),
        collect_s=collect,
        update_s=update,
        push_s=export + publish.seconds,
        step_s=step,
        network=_network(setting),
        store=_store(setting),
    )


# --- generation ------------------------------------------------------------------------


def generation(setting: Setting) -> Role:
    """One engine's seconds for its share of a batch."""
    config, architecture, speeds, load = (
        setting.config,
        setting.architecture,
        setting.speeds,
        setting.load,
    )
    engines, parallel = config.rollout.pool.replicas, config.rollout.tensor_parallel
    samples = ceil(config.run.batch_size / engines)
    slots = _slots(setting, samples)
    steps = _decode_steps(setting, samples, slots)
    active = samples * load.reply / steps
    width = dtype_bytes(config)
    # A group's prompt is computed once on each engine that samples it (prefix caching).
    prompts = min(samples, ceil(config.run.batch_size / config.algorithm.group_size))
    per_token = work.forward_flops(architecture, load.prompt, "sdpa")  # vLLM has its own
    prefill = prompts * load.prompt * per_token / (parallel * speeds.prefill_flops)
    weights = 2 * (work.linear_parameters(architecture) + architecture.vocab * architecture.hidden)
    context = load.prompt + load.reply / 2
    read = width * weights / 2
    kept = active * context * architecture.kv_bytes_per_token * width / 2
    flops = active * (weights + work.attention_flops(architecture, context))
    reading = (read + kept) / (parallel * speeds.memory_bandwidth)
    computing = flops / (parallel * speeds.prefill_flops)
    decode = "decoding: reading weights" if read >= kept else "decoding: reading the KV cache"
    if computing > reading:
        decode = "decoding: arithmetic"
    # Each layer adds up its two partial results over the ranks: all-reduce, both ways.
    tokens = prompts * load.prompt + samples * load.reply
    exchanged = 2 * 2 * architecture.layers * architecture.hidden * width * tokens
    exchange = exchanged * (parallel - 1) / parallel / speeds.link_bandwidth
    turns = setting.taking_turns(engines)
    busy = {
        "prefill": turns * prefill,
        decode: turns * steps * max(reading, computing),
        "decoding: launches and sampling": turns
        * steps
        * (speeds.decode_step_s + active * speeds.decode_token_s),
    }
    if parallel > 1:
        busy["tensor-parallel exchange"] = exchange
    return Role("rollout", busy)


def _slots(setting: Setting, samples: int) -> int:
    """Sequences that an engine decodes together. Raises `PlanError` where it can hold none."""
    config, cluster = setting.config, setting.cluster
    on_gpu = bool(config.rollout.pool.gpus)
    device = (cluster.gpu_memory_gib if on_gpu else cluster.memory_gib) * GIB
    cache = memory.engine(config, setting.architecture, device)["KV cache"]
    tokens = memory.kv_tokens(config, setting.architecture, cache)
    held = int(tokens // (setting.load.prompt + setting.load.longest))
    if held < 1:
        raise PlanError(
            f"an engine's KV cache would hold {max(tokens, 0)} tokens, less than one sample: raise "
            "rollout.tensor_parallel"
        )
    return min(samples, config.rollout.max_num_seqs, held)


def _decode_steps(setting: Setting, samples: int, slots: int) -> float:
    """Free slots are filled at once; at the end the longest reply is waited for."""
    load = setting.load
    return max(load.longest, samples * load.reply / slots + load.longest - load.reply)


def first_reply(setting: Setting, rollout: Role) -> float:
    """When the first reply is finished, with lengths spread evenly around their mean."""
    samples = ceil(setting.config.run.batch_size / setting.config.rollout.pool.replicas)
    slots = _slots(setting, samples)
    decoding = rollout.seconds - rollout.busy["prefill"]
    shortest = max(0.0, 2 * setting.load.reply - setting.load.longest)
    share = shortest / _decode_steps(setting, samples, slots)
    return rollout.busy["prefill"] * slots / samples + decoding * share


# --- scores ----------------------------------------------------------------------------


def scorers(setting: Setting) -> tuple[Role, ...]:
    """Seconds of one actor of each enabled source for its share of a batch."""
    config, speeds = setting.config, setting.speeds
    batch = config.run.batch_size
    seconds: dict[str, tuple[str, float]] = {}

    def forward(replicas: int) -> tuple[str, float]:
        flops = ceil(batch / replicas) * setting.load.length * setting.forward
        return "forward passes", setting.taking_turns(replicas) * flops / speeds.scoring_flops

    if config.reward_model.enabled:
        seconds["reward_model"] = forward(config.reward_model.pool.replicas)
    if config.judge.enabled and config.judge.kind == "local":
        seconds["judge"] = forward(config.judge.pool.replicas)
    elif config.judge.enabled:
        at_once = config.judge.pool.replicas * config.judge.pool.max_in_flight
        waiting = ceil(batch / at_once) * speeds.judge_latency_s
        limit = config.judge.requests_per_minute
        limited = 60 * batch / limit if limit else 0.0
        cause = "its rate limit" if limited > waiting else "the endpoint's answers"
        seconds["judge"] = (cause, max(waiting, limited))
    if config.rules.enabled:
        share = ceil(batch / config.rules.pool.replicas)
        turns = setting.taking_turns(config.rules.pool.replicas)
        seconds["rules"] = ("rules", turns * share * speeds.rules_s)
    return tuple(Role(name, {cause: s}) for name, (cause, s) in seconds.items())


def _waits(role: Role, setting: Setting) -> bool:
    """Whether the role waits for somebody else's machine."""
    return role.name == "judge" and setting.config.judge.kind == "endpoint"


def _one(role: Role, setting: Setting) -> float:
    """The score of one reply: what is left to do when the last one is finished."""
    if role.name == "rules":
        return setting.speeds.rules_s
    if _waits(role, setting):
        return setting.speeds.judge_latency_s
    return setting.load.length * setting.forward / setting.speeds.scoring_flops


# --- learning and publication ----------------------------------------------------------


def learning(setting: Setting) -> Role:
    """One rank's seconds for an update; the rank with the most samples sets the pace."""
    config, architecture, speeds = setting.config, setting.architecture, setting.speeds
    world = config.learner.world_size
    samples = work.rank_samples(config)
    flops = work.update_flops(config, architecture, setting.load, samples)
    busy = {"arithmetic": setting.taking_turns(world) * flops / speeds.learner_flops}
    if world > 1:
        reduced = work.reduction_bytes(config, architecture)
        busy["reduction of gradients"] = _collective(setting, reduced)
        if config.learner.zero_stage == 3:
            gathered = work.gathers(config, setting.load) * work.gather_bytes(config, architecture)
            busy["ZeRO-3 gathers"] = _collective(setting, gathered)
    return Role("learner", busy)


def _collective(setting: Setting, received: float) -> float:
    """Seconds for every rank to receive so many bytes: over its link, or into its node once."""
    world = setting.config.learner.world_size
    nodes = setting.nodes_of(world)
    # Of what one rank lacks (all but 1/world), a node lacks all but 1/nodes, and takes it in once.
    into_node = received * world / (world - 1) * (nodes - 1) / nodes
    return max(
        received / setting.speeds.link_bandwidth, into_node / setting.speeds.network_bandwidth
    )


def publication(setting: Setting) -> tuple[float, Role]:
    """The learner's export of the adapter, and the time for which engines are held up by a push.

    The driver digests the blob, Ray copies it to every node with engines, and each engine digests
    it again, rereads the base weights, merges, and reads some of them back. A tensor-parallel
    worker reads whole weights, as all others do.
    """
    config, architecture, speeds = setting.config, setting.architecture, setting.speeds
    blob = work.adapter_bytes(config, architecture)
    one_pass = blob / speeds.adapter_bandwidth
    engines = config.rollout.pool.replicas
    turns = setting.taking_turns(engines)
    nodes = setting.nodes_of(engines * config.rollout.tensor_parallel)
    modules = architecture.layers * len(config.lora.target_modules)
    checked = min(1.0, config.rollout.verify_tensors / modules)
    if config.rollout.publication == "merged":
        base = dtype_bytes(config) * work.linear_parameters(architecture)
        load = base / speeds.merge_bandwidth * (1 + checked)
    else:
        load = one_pass * (2 + checked)  # written to a folder, read by vLLM
    # A lone node has the blob already.
    copies = blob * max(0, nodes - 1) / speeds.broadcast_bandwidth
    busy = {
        "publication: digests": one_pass * (1 + turns),
        "publication: copies to the nodes": copies,
        "publication: loading and checking": turns * load,
    }
    return one_pass, Role("rollout", busy)


# --- bytes -----------------------------------------------------------------------------


def _network(setting: Setting) -> dict[str, float]:
    config, architecture, load = setting.config, setting.architecture, setting.load
    world, batch = config.learner.world_size, config.run.batch_size
    parallel = config.rollout.tensor_parallel
    sample = load.prompt * work.PROMPT_TOKEN + load.reply * work.REPLY_TOKEN
    text = load.length * work.TEXT_TOKEN
    sources = sum((config.reward_model.enabled, config.judge.enabled, config.rules.enabled))
    learners = setting.nodes_of(world)
    found = {
        "adapter to engines": float(
            work.adapter_bytes(config, architecture)
            * setting.nodes_of(config.rollout.pool.replicas * parallel)
        ),
        "samples and scores": batch
        * (sample + sources * (text + work.SCORES / 3) + learners * (sample + text + work.SCORES)),
        "gradients": world * work.reduction_bytes(config, architecture),
    }
    if config.learner.zero_stage == 3:
        found["ZeRO-3 gathers"] = (
            world * work.gathers(config, load) * work.gather_bytes(config, architecture)
        )
    return found


def _store(setting: Setting) -> dict[str, float]:
    """Copies in the object stores: of the adapter as the learner returns it, as the driver
    publishes it and on every other node with engines; of the batch on every node with ranks."""
    config, load = setting.config, setting.load
    blob = work.adapter_bytes(config, setting.architecture)
    engines = setting.nodes_of(config.rollout.pool.replicas * config.rollout.tensor_parallel)
    sample = load.prompt * work.PROMPT_TOKEN + load.reply * work.REPLY_TOKEN
    sample += load.length * work.TEXT_TOKEN + work.SCORES
    return {
        "adapter": float(blob * (1 + max(1, engines))),
        "batch": config.run.batch_size * sample * setting.nodes_of(config.learner.world_size),
    }
