"""`summary.json`: what the run did, in numbers that can be checked against its files."""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from types import TracebackType
from typing import Any

import psutil

from repo_ray.config import Config
from repo_ray.evaluation.measures import compute_differences, compute_measures
from repo_ray.rollouts.publication import EngineState
from repo_ray.training.loop import Outcome
from repo_ray.training.publication import Published

GIB = 2**30


class MemoryWatch:
    """Samples this machine's memory in use while it is open; all processes together."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._done = threading.Event()
        self._least = self._peak = self._used()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak_gib(self) -> float:
        """Most memory in use beyond the least, GiB (driver's machine).

        The least, not what was in use at the start: actors of an earlier phase may then be
        ending still.
        """
        return (self._peak - self._least) / GIB

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            used = self._used()
            self._peak, self._least = max(self._peak, used), min(self._least, used)

    @staticmethod
    def _used() -> int:
        memory = psutil.virtual_memory()
        return int(memory.total - memory.available)


def software() -> dict[str, str]:
    """Versions of what computes."""
    names = ["torch", "transformers", "peft", "deepspeed", "ray", "openai", "pyarrow"]
    found = {name: version(name) for name in names}
    return {"python": platform.python_version(), **found}


def summarise(
    config: Config,
    outcome: Outcome,
    metrics: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Sequence[Mapping[str, Any]]],
    gold_curve: Sequence[Mapping[str, float]],
    published: Published,
    engines: Sequence[EngineState],
    canary: Mapping[str, Mapping[str, float]],
    phases: Mapping[str, Mapping[str, Any]],
    peak_memory_gib: float,
    judge: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of `summary.json`; `judge` says which judge it was (hashes), None if off."""
    resamples, seed = config.evaluation.bootstrap, config.run.seed
    titles = list(columns)
    ledger = outcome.ledger

    def average(key: str) -> float | None:
        values = [row[key] for row in metrics if row.get(key) is not None]
        return sum(values) / len(values) if values else None

    return {
        "name": config.run.name,
        "model": config.model.path,
        "seed": seed,
        "steps": outcome.step,
        "backends": _backends(config),
        "software": software(),
        "hardware": f"{psutil.cpu_count()} CPU cores, "
        f"{psutil.virtual_memory().total / GIB:.0f} GiB memory",
        "reductions": reductions(config),
        "samples": {
            "issued": ledger.issued,
            "consumed": ledger.consumed,
            "dropped": dict(ledger.dropped),
            "sampled": ledger.samples,
            "invalid_scores": dict(ledger.invalid),
        },
        "ledger": ledger.state(),
        "adapters": {
            "learner": {"version": published.version, "digest": published.digest},
            "engines": [asdict(state) for state in engines],
            "pushes": outcome.pushes,
        },
        "canary": canary,
        "measures": {
            title: {k: asdict(m) for k, m in compute_measures(rows, resamples, seed).items()}
            for title, rows in columns.items()
        },
        "differences": {
            k: asdict(m)
            for k, m in compute_differences(
                columns[titles[-1]], columns[titles[-2]], resamples, seed
            ).items()
        }
        if len(titles) > 1
        else {},
        "gold_curve": list(gold_curve),
        "tokens_per_s": {
            "rollout": average("rollout/tokens_per_s"),
            "learner": average("tokens_per_s"),
        },
        "seconds": {name: phase["seconds"] for name, phase in phases.items()},
        "stages": {name: phase["result"] for name, phase in phases.items()},
        "peak_memory_gib": peak_memory_gib,
        "judge": judge,
    }


def _backends(config: Config) -> dict[str, str]:
    """What really computes, so that nobody takes a small run for another."""
    engine = "CUDA" if config.rollout.pool.gpus else "CPU"
    judge = config.judge
    judge_kind = f"{judge.model} at {judge.base_url}" if judge.kind == "endpoint" else "local"
    return {
        "rollout": f"vLLM on {engine}, {config.rollout.publication} adapters",
        "learner": f"DeepSpeed ZeRO-{config.learner.zero_stage}, "
        f"{config.learner.world_size} rank(s) on {'CUDA' if config.learner.gpus else 'CPU'}",
        "reward_model": "Bradley-Terry LoRA" if config.reward_model.enabled else "off",
        "judge": judge_kind if judge.enabled else "off",
        "rules": "on" if config.rules.enabled else "off",
    }


def reductions(config: Config) -> list[str]:
    """Everything that is smaller than in the paper, in words."""
    paper = Config()
    run, stages = config.run, ("warm_start", "train_reward_model", "train_judge")
    found: list[tuple[str, Any, Any]] = [
        ("base model", config.model.path, "Qwen3-32B"),
        ("batch size", run.batch_size, paper.run.batch_size),
        ("tokens per reply, at most", config.sampling.max_new_tokens, 512),
        ("LoRA rank", config.lora.rank, paper.lora.rank),
        ("preference rows built", config.data.build_preferences, paper.data.build_preferences),
        ("online dialogues", config.evaluation.online_dialogues, 30),
        ("bad-case dialogues", config.evaluation.badcase_dialogues, 45),
    ]
    lines = [f"{name}: {ours} (paper: {theirs})" for name, ours, theirs in found if ours != theirs]
    if run.steps is not None:
        lines.append(f"learner steps: {run.steps} of {run.batch_size} replies each (paper: 190)")
    for stage in stages:
        settings = getattr(config, stage)
        if settings is not None and settings.max_rows is not None:
            lines.append(f"{stage}: {settings.max_rows} training rows")
    if config.evaluation.turns_per_dialogue is not None:
        lines.append(
            f"turns judged per dialogue: {config.evaluation.turns_per_dialogue} (paper: about 5)"
        )
    return lines
