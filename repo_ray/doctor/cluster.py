"""Checks on a Ray cluster: does the plan find its places, and does a push reach an engine?"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from transformers.utils.logging import disable_progress_bar

from repo_ray.actors.environment import thread_environment
from repo_ray.actors.placement import PlacementError, actor_options, require_room
from repo_ray.actors.rollout import RolloutActor
from repo_ray.config import Config
from repo_ray.doctor.check import Check
from repo_ray.models.actor_critic import ActorCritic, SequenceBatch
from repo_ray.models.adapters import adapter_digest, export_adapter, import_adapter
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import (
    ModelNotFoundError,
    load_base,
    load_tokenizer,
    resolve_model,
)
from repo_ray.planning.plan import reservations
from repo_ray.records import Message, Rollout
from repo_ray.rollouts.engine import engine_environment
from repo_ray.rollouts.publication import (
    PublicationError,
    check_canary,
    visible_canary,
)

PLACEMENT_TIMEOUT_S = 20.0
_SEED, _TOKENS = 0, 16
_QUESTIONS = (
    "What is the lowest price you can offer?",
    "We already gave you a discount.",
    "Our rooms are full this weekend, why should we lower it?",
    "Call me next week.",
)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Joins the cluster at `address`, or starts an own one without a dashboard."""
    ray.init(
        address=address or "local",
        namespace="repo-ray-doctor",
        include_dashboard=False if address is None else None,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def placement(config: Config) -> Check:
    """Reserves what every actor of the run needs, and gives it back."""
    wanted = reservations(config)
    try:
        asyncio.run(require_room(wanted, PLACEMENT_TIMEOUT_S, lambda _: None))
    except PlacementError as error:
        return Check(
            "placement",
            "fail",
            str(error),
            "Lower cpus, gpus or replicas, label the nodes, or see what else runs there",
        )
    actors = sum(reservation.count for reservation in wanted)
    total = ray.cluster_resources()
    return Check(
        "placement",
        "ok",
        f"{actors} actors find their places; the cluster has {total.get('CPU', 0):g} CPUs and "
        f"{total.get('GPU', 0):g} GPUs",
    )


def canary(config: Config, timeout_s: float) -> Check:
    """Starts one real engine, pushes an adapter and compares its effect with PEFT's."""
    began = time.monotonic()
    disable_progress_bar()
    try:
        found = _canary(config, timeout_s)
    except ModelNotFoundError as error:
        return Check("canary", "fail", str(error))
    except PublicationError as error:
        return Check("canary", "fail", str(error), "Do not train on this engine")
    except GetTimeoutError:
        return Check("canary", "fail", f"the engine did not answer within {timeout_s:g} s")
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        return Check("canary", "fail", f"the engine failed: {reason}")
    return Check("canary", "ok", f"{found}, {time.monotonic() - began:.0f} s")


def _canary(config: Config, timeout_s: float) -> str:
    folder = resolve_model(config.model.path)
    pool = config.rollout.pool
    engine = RolloutActor.options(  # type: ignore[attr-defined]
        runtime_env={"env_vars": thread_environment(pool.threads) | engine_environment(config)},
        **actor_options(pool),
    ).remote(config, folder, "doctor")

    def ask(method: str, *arguments: Any) -> Any:
        return ray.get(getattr(engine, method).remote(*arguments), timeout=timeout_s)

    try:
        ready = engine.ready.remote()
        network = _network(config, folder)  # while the engine starts
        ray.get(ready, timeout=timeout_s)
        prompts = _prompts(config, folder)
        samples: list[Rollout] = [
            ask("sample", f"doctor-{i}", f"doctor-{i}", 0, prompt, _SEED, _TOKENS)
            for i, prompt in enumerate(prompts)
        ]
        replies = [(list(s.prompt_token_ids), list(s.token_ids)) for s in samples]
        tolerance = config.rollout.canary_tolerance
        template = export_adapter(network.model, "policy")

        def peft(blob: bytes) -> list[list[float]]:
            import_adapter(network.model, "policy", blob)
            return _logprobs(network, samples)

        found = visible_canary(template, _SEED, tolerance, peft(template), peft)
        before = ask("probe", replies)
        push = ask("push", found.blob, 1, adapter_digest(found.blob))
        report = check_canary(before, ask("probe", replies), found.before, found.after, tolerance)
        ask("shutdown")
    finally:
        ray.kill(engine)
    return (
        f"{config.rollout.publication} push in {push.total_s:.1f} s, {push.verified_tensors} "
        f"tensors verified; log-probs moved {report.engine_moved:.2f} nats, engine and PEFT differ "
        f"by {report.canary_difference:.3f}"
    )


def _prompts(config: Config, folder: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(folder)
    thinking = config.model.thinking
    return [
        encode_prompt(tokenizer, [Message("user", text)], thinking=thinking) for text in _QUESTIONS
    ]


def _network(config: Config, folder: Path) -> ActorCritic:
    import torch

    dtype = getattr(torch, config.model.dtype)
    return ActorCritic(
        load_base(folder, dtype, config.model.attention, packed=True),
        config.lora,
        temperature=1.0,
        chunk=config.learner.logprob_chunk,
        entropy_gradient=False,
    )


def _logprobs(network: ActorCritic, samples: list[Rollout]) -> list[list[float]]:
    import torch

    with torch.no_grad():
        flat, _ = network(SequenceBatch.of(samples, torch.device("cpu")), "policy")
    return [part.tolist() for part in flat.split([len(s.token_ids) for s in samples])]
