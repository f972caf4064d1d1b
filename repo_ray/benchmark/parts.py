"""Every bar, by name: what is compared, and how both sides are set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from repo_ray.benchmark import (
    learning,
    memory,
    overlap,
    rollouts,
    scale,
    scoring,
    starting,
    steps,
    whole,
)
from repo_ray.benchmark.measure import Bar, Sides
from repo_ray.config.settings import Config


@dataclass(frozen=True)
class Part:
    bar: Bar
    sides: Callable[[Config, Path], Sides]


PARTS: Mapping[str, Part] = {
    "learner": Part(
        Bar("learner", "stock PEFT and transformers: sdpa, full logits", "tokens", 2.2),
        learning.against_stock,
    ),
    "uneven": Part(
        Bar("learner, samples of 8 to 256 tokens", "one padded batch", "tokens", 1.5),
        learning.uneven_lengths,
    ),
    "peak": Part(
        Bar("learner, floating-point operations", "large matrix products", "FLOP", 0.5),
        learning.against_peak,
    ),
    "rollout": Part(
        Bar("rollouts with a live adapter", "vLLM without one, same sampling", "tokens", 0.95),
        rollouts.against_bare_vllm,
    ),
    "lora": Part(
        Bar("rollouts with a live adapter", "vLLM's own LoRA serving", "tokens", 5.0),
        rollouts.against_vllm_lora,
    ),
    "push": Part(
        Bar("adapter to a verified engine", "PEFT writes a folder, vLLM loads it", "pushes", 3.0),
        rollouts.push_against_folder,
    ),
    "grpo": Part(
        Bar("GRPO step: sampling, update, verified push", "TRL's GRPO step", "samples", 3.0),
        steps.grpo_against_trl,
    ),
    "overlap": Part(
        Bar(
            "staleness 1, simulated delays: time saved",
            "all but the larger of generation and learning",
            "share",
            0.9,
            timed=False,
        ),
        overlap.against_larger,
    ),
    "controller": Part(
        Bar(
            "512 simulated engines, 10,240 samples in flight: busy",
            "their delays alone",
            "share",
            0.95,
            timed=False,
        ),
        scale.busy,
    ),
    "controller_cost": Part(
        Bar(
            "controller's CPU time per sample, 512 engines",
            "with 8 engines",
            "ms",
            1.1,
            at_most=True,
            timed=False,
        ),
        scale.cost,
    ),
    "step": Part(
        Bar("REPO step: two networks, reward model, rules", "TRL's GRPO step", "samples", 2.0),
        whole.step_without_judge,
    ),
    "step_judge": Part(
        Bar("REPO step, embedded judge included", "TRL's GRPO step", "samples", 1.3),
        whole.step_with_judge,
    ),
    "reward_model": Part(
        Bar("reward-model actor, replies one at a time", "one full-batch forward", "texts", 0.85),
        scoring.streamed_against_one_forward,
    ),
    "start": Part(
        Bar("start to the first sample", "vLLM's start", "s", 2.0, at_most=True, timed=False),
        starting.start_against_vllm,
    ),
    "memory": Part(
        Bar("learner process, peak", "TRL's trainer", "MiB", 0.8, at_most=True, timed=False),
        memory.learner_against_trainer,
    ),
    "memory_all": Part(
        Bar("all processes, judge included", "TRL's trainer", "MiB", None, timed=False),
        memory.all_against_trainer,
    ),
}
