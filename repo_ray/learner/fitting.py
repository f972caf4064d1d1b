"""The supervised training loop over the DeepSpeed engine, for any objective.

It runs on one rank in the calling process; the caller decides where that is. Micro-batches are
formed by a token budget, so that memory is bounded whatever the lengths.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from repo_ray.config.settings import Config
from repo_ray.config.supervised import SupervisedConfig
from repo_ray.learner.engine import Engine, EngineSettings, ParameterGroup, build_engine
from repo_ray.models.packing import budget_batches

#: (steps done, steps in all, metrics of the step: `loss`, `lr`, `grad_norm`, the objective's own)
Progress = Callable[[int, int, Mapping[str, float]], None]
Item = TypeVar("Item")
#: Share of the steps over which the learning rate rises.
WARMUP_SHARE = 0.1


class TrainingError(Exception):
    """Training cannot go on or has nothing to train on; the message says why."""


@dataclass(frozen=True)
class Objective(Generic[Item]):
    """What is trained, and how a batch of items becomes a loss.

    `rows` counts the data rows in an item, `length` its tokens, `units` what the loss is averaged
    over (tokens, pairs, verdicts). `loss` runs the module through its first argument and returns
    sums over the units: the loss and the metrics.
    """

    module: nn.Module
    parameters: Sequence[nn.Parameter]
    rows: Callable[[Item], int]
    length: Callable[[Item], int]
    units: Callable[[Item], int]
    loss: Callable[[Callable[..., Tensor], Sequence[Item]], tuple[Tensor, Mapping[str, float]]]


@dataclass(frozen=True)
class Fit:
    """A finished training: optimizer steps, wall seconds, and the last epoch's mean metrics.

    `rows` counts every time that a row was trained on, `tokens` the same for positions (without
    padding): each was run forward and backward.
    """

    steps: int
    seconds: float
    rows: int
    tokens: int
    metrics: Mapping[str, float]


def fit(
    objective: Objective[Item],
    items: Sequence[Item],
    stage: SupervisedConfig,
    config: Config,
    progress: Progress | None = None,
) -> Fit:
    """Trains with AdamW, a linear warm-up and a linear decay to zero.

    The loss of a step is the mean over the units of its items, `stage.batch_size` rows or more
    by less than an item, whatever the micro-batches. Raises `TrainingError` on an empty set and on repeated non-finite gradients.
    """
    if not items:
        raise TrainingError("no training rows")
    started = time.perf_counter()
    batches = [
        batch
        for epoch in range(stage.epochs)
        for batch in _batches(objective, items, stage.batch_size, f"{config.run.seed}/{epoch}")
    ]
    total = len(batches)
    engine = build_engine(
        objective.module,
        [
            ParameterGroup(
                "trained", objective.parameters, stage.lr, config.learner.policy_max_grad_norm
            )
        ],
        EngineSettings(
            zero_stage=0,  # one rank has nothing to shard
            weight_decay=config.learner.weight_decay,
            warmup_steps=max(1, round(WARMUP_SHARE * total)),
            decay_steps=total,
        ),
    )
    skipped = 0
    history: list[Mapping[str, float]] = []
    try:
        for batch in batches:
            metrics, fault = _step(engine, objective, batch, config.learner.micro_batch_tokens)
            skipped = skipped + 1 if fault else 0
            if skipped >= config.run.max_skipped_updates:
                raise TrainingError(f"{skipped} updates in a row were skipped: {fault}")
            history.append(metrics)
            if progress is not None:
                progress(len(history), total, metrics)
    finally:
        engine.close()
    last = history[-math.ceil(total / stage.epochs) :]
    means = {key: sum(m[key] for m in last) / len(last) for key in last[-1]}
    return Fit(
        total,
        time.perf_counter() - started,
        stage.epochs * sum(map(objective.rows, items)),
        stage.epochs * sum(map(objective.length, items)),
        means,
    )


def evaluate(
    objective: Objective[Item], items: Sequence[Item], config: Config
) -> Mapping[str, float]:
    """Mean loss and metrics over the units of `items`, without training."""
    units = sum(objective.units(item) for item in items)
    sums: dict[str, float] = {}
    with torch.inference_mode():
        for micro in _micro_batches(objective, items, config.learner.micro_batch_tokens):
            loss, metrics = objective.loss(objective.module, micro)
            for key, value in {"loss": float(loss), **metrics}.items():
                sums[key] = sums.get(key, 0.0) + value
    return {key: value / units for key, value in sums.items()}


def _batches(
    objective: Objective[Item], items: Sequence[Item], size: int, seed: str
) -> Iterator[list[Item]]:
    order = list(items)
    random.Random(seed).shuffle(order)
    batch: list[Item] = []
    for item in order:
        batch.append(item)
        if sum(map(objective.rows, batch)) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def _micro_batches(
    objective: Objective[Item], items: Sequence[Item], budget: int
) -> Iterator[list[Item]]:
    lengths = [objective.length(item) for item in items]
    for rows in budget_batches(lengths, budget):
        yield [items[row] for row in rows]


def _step(
    engine: Engine, objective: Objective[Item], batch: Sequence[Item], budget: int
) -> tuple[Mapping[str, float], str]:
    units = sum(objective.units(item) for item in batch)
    sums: dict[str, float] = {}
    for micro in _micro_batches(objective, batch, budget):
        loss, metrics = objective.loss(engine, micro)
        engine.backward(loss / units)
        for key, value in {"loss": float(loss.detach()), **metrics}.items():
            sums[key] = sums.get(key, 0.0) + value
    done = engine.step()
    means = {key: value / units for key, value in sums.items()}
    norm = done.grad_norms.get("trained", math.nan)
    return {**means, "lr": done.lrs["trained"], "grad_norm": norm}, done.skipped
