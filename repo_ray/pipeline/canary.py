"""At start: a canary adapter must move every engine's log-probs exactly as it moves PEFT's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from repo_ray.config import Config
from repo_ray.records import Prompt, Rollout
from repo_ray.rollouts.publication import (
    CANARY_MARGIN,
    CanaryReport,
    PublicationError,
    check_canary,
    make_canary,
    mean_difference,
)
from repo_ray.training.checkpoints import Checkpoint
from repo_ray.training.collect import sampling_seed
from repo_ray.training.schedule import Schedule
from repo_ray.training.system import System

#: The canary is published under a version that no learner step has.
CANARY_VERSION = -1
#: Standard deviation of what the canary adds to every linear layer's output: the first try,
#: and the factor of the next. Log-probs must move by ten tolerances, but not much further, since
#: the rounding by which engine and PEFT may differ grows with it (SmolLM2-135M in bf16: 1.1 nats
#: moved and 0.07 apart at 0.5, 1.9 and 0.09 at 0.7).
FIRST_SCALE, SCALE_STEP, MAX_TRIES = 0.4, 1.15, 12
#: How far beyond the required move PEFT's should be, so that the engine's is beyond it too.
RESERVE = 1.1
PROBES = 4
PROBE_TOKENS = 16


async def run_canary(
    config: Config,
    system: System,
    schedule: Schedule,
    encode: Callable[[Prompt], list[int]],
    checkpoint: Checkpoint | None,
) -> dict[str, Any]:
    """Pushes the canary, compares, then publishes the policy that the run starts from.

    Returns one `CanaryReport` per engine, as dictionaries. Raises `PublicationError`.
    """
    learner, rollout, publisher = system.learner, system.rollout, system.publisher
    policy = await learner.adapter_blob("policy")
    zero = make_canary(policy, seed=config.run.seed, scale=0.0)
    samples = await asyncio.gather(
        *(
            _reply(config, system, f"canary-{i}", prompt, encode)
            for i, prompt in enumerate(schedule.batch(0)[:PROBES])
        )
    )
    probes = [(list(r.prompt_token_ids), list(r.token_ids)) for r in samples]
    peft_before = await learner.probe(zero, samples)
    wanted = RESERVE * CANARY_MARGIN * config.rollout.canary_tolerance
    for attempt in range(MAX_TRIES):
        canary = make_canary(policy, config.run.seed, FIRST_SCALE * SCALE_STEP**attempt)
        peft_after = await learner.probe(canary, samples)
        if mean_difference(peft_after, peft_before) >= wanted:
            break
    before = await rollout.broadcast("probe", probes)
    await publisher.push(rollout, canary, CANARY_VERSION)
    after = await rollout.broadcast("probe", probes)
    reports: dict[str, CanaryReport] = {
        engine: check_canary(
            before[engine],
            after[engine],
            peft_before,
            peft_after,
            config.rollout.canary_tolerance,
        )
        for engine in after
        if engine in before
    }
    if not reports:
        raise PublicationError("no engine lived through the check with a canary adapter")
    await publisher.push(rollout, policy, checkpoint.step if checkpoint else 0)
    return {engine: asdict(report) for engine, report in reports.items()}


async def _reply(
    config: Config,
    system: System,
    sample_id: str,
    prompt: Prompt,
    encode: Callable[[Prompt], list[int]],
) -> Rollout:
    seed = sampling_seed(config.run.seed, sample_id)
    rollout: Rollout = await system.rollout.call(
        "sample", sample_id, prompt.prompt_id, 0, encode(prompt), seed, PROBE_TOKENS
    )
    return rollout
