"""At start: a canary adapter must move every engine's log-probs exactly as it moves PEFT's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from repo_ray.config import Config
from repo_ray.models.actor_critic import PromptReply, TokenSequence
from repo_ray.rollouts.publication import (
    Canary,
    CanaryReport,
    PublicationError,
    check_canary,
)
from repo_ray.training.checkpoints import Checkpoint
from repo_ray.training.system import System

#: The canary is published under a version that no learner step has.
CANARY_VERSION = -1
#: The last so many tokens of the first prompts; the log-probs of the latter of them are compared.
PROBES, PROBE_TOKENS, COMPARED_TOKENS = 4, 128, 32


def as_probe(prompt: Sequence[int]) -> PromptReply:
    """The end of a prompt, of which the latter tokens are probed as if they were a reply."""
    ids = list(prompt[-PROBE_TOKENS:])
    first = max(len(ids) - COMPARED_TOKENS, 1)  # what follows nothing has no log-prob
    return PromptReply(ids[:first], ids[first:])


async def start_checked(
    config: Config,
    system: System,
    policy: bytes | None,
    prompts: Iterable[Sequence[int]],
    checkpoint: Checkpoint | None,
    report: Callable[[str], None],
) -> dict[str, CanaryReport]:
    """Brings everything up side by side, and publishes the policy that the run starts from.

    The canary is made as soon as the learner is there, and checked as soon as the engines are:
    scorers may still start. `prompts` are token ids [T]; some are probed. `policy`: see
    `System.start_learner`. Returns one report per engine. Raises `PublicationError`, and what
    starting raises.
    """
    probes = [as_probe(prompt) for prompt in islice(prompts, PROBES)]
    await system.learner.reserve()

    async def learner() -> tuple[Canary, bytes]:
        await system.start_learner(policy, report, checkpoint.folder if checkpoint else None)
        canary = await system.learner.canary(
            probes, config.run.seed, config.rollout.canary_tolerance
        )
        return canary, await system.learner.adapter_blob("policy")

    async def checked() -> dict[str, CanaryReport]:
        _, (canary, start) = await asyncio.gather(system.start_engines(report), learner())
        reports = await _check(system, probes, canary, config.rollout.canary_tolerance)
        await system.publisher.push(system.rollout, start, checkpoint.step if checkpoint else 0)
        return reports

    reports, _ = await asyncio.gather(checked(), system.start_scorers(report))
    return reports


async def _check(
    system: System, probes: Sequence[TokenSequence], canary: Canary, tolerance: float
) -> dict[str, CanaryReport]:
    """Pushes the canary and compares, on every engine at once."""
    rollout = system.rollout
    samples = [(probe.prompt_token_ids, probe.token_ids) for probe in probes]
    before = await rollout.broadcast("probe", samples)
    await system.publisher.push(rollout, canary.blob, CANARY_VERSION)
    after = await rollout.broadcast("probe", samples)
    reports = {
        engine: check_canary(before[engine], after[engine], canary.before, canary.after, tolerance)
        for engine in after
        if engine in before
    }
    if not reports:
        raise PublicationError("no engine lived through the check with a canary adapter")
    return reports
