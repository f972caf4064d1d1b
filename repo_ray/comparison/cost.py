"""What a training cost, so that methods can be compared at the price of their results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from repo_ray.config import Config
from repo_ray.pipeline.summary import MemoryWatch

ATTEMPTS = "attempts.jsonl"


@dataclass(frozen=True)
class Cost:
    """`seen` counts what the budget counts. `tokens_sampled` are reply tokens of the engines,
    `tokens_learned` the positions (prompt and reply) that the policy learned from, each counted
    once per pass over it. `cpu_s` is processor time of the driver's whole machine; `gpu_s` reserved GPUs times
    wall time. Calls count scores asked of each source."""

    seen: int
    tokens_sampled: int
    tokens_learned: int
    wall_s: float
    cpu_s: float
    gpu_s: float
    peak_memory_gib: float
    judge_calls: int
    reward_model_calls: int


def reserved_gpus(config: Config, supervised: bool) -> float:
    """GPUs that a training reserves: of a supervised one, those of a learner's rank."""
    if supervised:
        return config.learner.gpus
    pools = [config.rollout.pool]
    pools += [s.pool for s in (config.reward_model, config.judge, config.rules) if s.enabled]
    gang = config.learner.gpus * config.learner.world_size
    return gang + sum(pool.gpus * pool.replicas for pool in pools)


@contextmanager
def measured(folder: Path, gpus: float) -> Iterator[None]:
    """Adds what is used inside, `gpus` reserved, to the folder's attempts, however it ends.

    A training that is killed with SIGKILL loses the measure of that attempt.
    """
    began, cpu = time.monotonic(), _busy()
    with MemoryWatch() as memory:
        try:
            yield
        finally:
            wall = time.monotonic() - began
            attempt = {
                "wall_s": wall,
                "cpu_s": _busy() - cpu,
                "gpu_s": gpus * wall,
                "peak_memory_gib": memory.peak_gib,
            }
            with (folder / ATTEMPTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(attempt) + "\n")


def rl_cost(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> Cost:
    """Of a streaming run, from its `metrics.jsonl` and its attempts."""
    ledger = metrics[-1]["ledger"]
    samples = int(ledger["samples"])
    return Cost(
        seen=samples,
        tokens_sampled=round(sum(row["rollout/tokens"] for row in metrics)),
        tokens_learned=round(sum(row.get("tokens_total", 0) for row in metrics)),
        judge_calls=samples if any("latency/judge_s" in row for row in metrics) else 0,
        reward_model_calls=samples
        if any("latency/reward_model_s" in row for row in metrics)
        else 0,
        **_attempts(folder),
    )


def supervised_cost(folder: Path, result: Mapping[str, Any]) -> Cost:
    """Of a supervised training, from its result (`learner.stages`) and its attempts."""
    return Cost(
        seen=int(result["rows_seen"]),
        tokens_sampled=0,
        tokens_learned=int(result["tokens"]),
        judge_calls=0,
        reward_model_calls=0,
        **_attempts(folder),
    )


def _attempts(folder: Path) -> dict[str, float]:
    """Times add up over attempts; memory is the highest."""
    lines = (folder / ATTEMPTS).read_text(encoding="utf-8").splitlines()
    attempts = [json.loads(line) for line in lines]
    summed = {k: sum(a[k] for a in attempts) for k in ("wall_s", "cpu_s", "gpu_s")}
    return {**summed, "peak_memory_gib": max(a["peak_memory_gib"] for a in attempts)}


def _busy() -> float:
    """Processor seconds that this machine has spent on work since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)
