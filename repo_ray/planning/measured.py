"""A finished run beside its prediction, and speeds that fit it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import pyarrow.parquet as pq

from repo_ray.config import Config, load_config
from repo_ray.planning.forecast import Forecast
from repo_ray.planning.placement import PlanError
from repo_ray.planning.speeds import Speeds
from repo_ray.planning.work import Load
from repo_ray.training.metrics import read_metrics


@dataclass(frozen=True)
class Measured:
    """Medians over a run's steps, without the first, in which things warm up. Seconds."""

    config: Config
    load: Load
    steps: int
    collect_s: float
    update_s: float
    push_s: float
    step_s: float

    def errors(self, predicted: Forecast) -> dict[str, tuple[float, float]]:
        """Measured and predicted seconds by phase.

        With staleness phases run at the same time, and each takes longer than alone: there, only
        whole steps can be compared.
        """
        phases = (
            {}
            if self.config.run.staleness
            else {
                "collect": (self.collect_s, predicted.collect_s),
                "update": (self.update_s, predicted.update_s),
                "push": (self.push_s, predicted.push_s),
            }
        )
        return {**phases, "step": (self.step_s, predicted.step_s)}


def read_run(folder: Path) -> Measured:
    """What a run folder says. Raises `PlanError` for one that cannot be compared."""
    if not (folder / "config.yaml").is_file():
        raise PlanError(f"{folder}: no config.yaml: not a run folder")
    config = load_config(folder / "config.yaml")
    if config.dialogue is not None:
        raise PlanError(f"{folder}: a run on whole dialogues; only single replies are predicted")
    rows = [row for row in read_metrics(folder, 2) if not row["skipped"]]
    if not rows:
        raise PlanError(f"{folder}: metrics.jsonl has no step after the first")
    samples = sum(row["batch/size"] for row in rows)
    reply = sum(row["tokens"] for row in rows) / samples
    length = sum(row["tokens_total"] for row in rows) / samples
    longest = fmean(_longest(folder, int(row["step"]) - 1) for row in rows)
    whole = [row["time/step_s"] for row in rows if "time/step_s" in row]
    if not whole:
        if config.run.staleness:
            raise PlanError(f"{folder}: metrics.jsonl lacks time/step_s, which staleness needs")
        whole = [row["time/collect_s"] + row["time/update_s"] + row["time/push_s"] for row in rows]
    return Measured(
        config,
        Load(length - reply, reply, longest),
        len(rows),
        collect_s=median(row["time/collect_s"] for row in rows),
        update_s=median(row["time/update_s"] for row in rows),
        push_s=median(row["time/push_s"] for row in rows),
        step_s=median(whole),
    )


def _longest(folder: Path, step: int) -> int:
    """Tokens of the longest reply of a step (0-based)."""
    path = folder / "trajectories" / f"step-{step:06d}.parquet"
    try:
        replies = pq.read_table(path, columns=["token_ids"])["token_ids"]
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error}") from None
    return max(len(tokens) for tokens in replies.to_pylist())


def calibrated(speeds: Speeds, measured: Measured, predicted: Forecast) -> Speeds:
    """`speeds` with which the run's three phases would have been predicted exactly.

    A run says how long each phase took, not why: all constants of a phase get one factor.
    """
    if measured.config.run.staleness or not speeds.shared:
        raise PlanError(
            "speeds can be taken from a run with staleness 0 on a machine whose actors share cores:"
            " elsewhere phases overlap, and their times say little about each"
        )
    collect = measured.collect_s / predicted.collect_s
    update = measured.update_s / predicted.update_s
    push = measured.push_s / predicted.push_s
    return speeds.model_copy(
        update={
            "origin": f"{speeds.origin}; fitted to the run {measured.config.run.name}",
            "prefill_flops": speeds.prefill_flops / collect,
            "scoring_flops": speeds.scoring_flops / collect,
            "memory_bandwidth": speeds.memory_bandwidth / collect,
            "decode_step_s": speeds.decode_step_s * collect,
            "decode_token_s": speeds.decode_token_s * collect,
            "rules_s": speeds.rules_s * collect,
            "judge_latency_s": speeds.judge_latency_s * collect,
            "learner_flops": speeds.learner_flops / update,
            "link_bandwidth": speeds.link_bandwidth / update,
            "network_bandwidth": speeds.network_bandwidth / update,
            "adapter_bandwidth": speeds.adapter_bandwidth / push,
            "merge_bandwidth": speeds.merge_bandwidth / push,
            "broadcast_bandwidth": speeds.broadcast_bandwidth / push,
        }
    )
