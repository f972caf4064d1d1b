"""At start: a canary adapter must move every engine's log-probs exactly as it moves PEFT's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from repo_ray.config import Config
from repo_ray.records import Prompt, Rollout
from repo_ray.rollouts.publication import CanaryReport, check_canary, make_canary
from repo_ray.training.checkpoints import Checkpoint
from repo_ray.training.collect import sampling_seed
from repo_ray.training.schedule import Schedule
from repo_ray.training.system import System

#: The canary is published under a version that no learner step has.
CANARY_VERSION = -1
#: Standard deviation of what it adds to every linear layer's output; moves log-probs by nats.
CANARY_SCALE = 0.5
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
    canary = make_canary(policy, seed=config.run.seed, scale=CANARY_SCALE)
    samples = await asyncio.gather(
        *(
            _reply(config, system, f"canary-{i}", prompt, encode)
            for i, prompt in enumerate(schedule.batch(0)[:PROBES])
        )
    )
    probes = [(list(r.prompt_token_ids), list(r.token_ids)) for r in samples]
    peft_before = await learner.probe(zero, samples)
    peft_after = await learner.probe(canary, samples)
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
