"""The learner's checkpoint files come from its ranks' nodes to the driver, and back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file

from repo_ray.actors.learner import LearnerError, LearnerGroup, log
from repo_ray.config.load import validate
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.models.adapters import adapter_digest, parse_adapter
from repo_ray.rollouts.publication import mean_difference

CONFIG = validate(
    {
        "run": {"name": "ranks", "batch_size": 4},
        "model": {"dtype": "float32", "attention": "eager"},
        "lora": {"rank": 4, "alpha": 8},
        "learner": {"cpus": 0.5, "threads": 1, "world_size": 2, "timeout_s": 120},
    },
    "test",
)


PROBES = [SimpleNamespace(prompt_token_ids=[1, 2, 3], token_ids=[4, 5, 6, 7])]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_two_ranks_save_to_the_driver_and_continue_from_it(
    cluster: None, tiny_model: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    async def run() -> None:
        group = LearnerGroup(CONFIG)
        try:
            await group.build(tiny_model, None)
            blobs = [await group._one(rank, "adapter_blob", "policy") for rank in (0, 1)]
            policy = adapter_digest(blobs[0])
            assert policy == adapter_digest(await group.adapter_blob("policy"))
            assert blobs[1] == b""
            canary = await group.canary(PROBES, 0, 1e-3)
            assert mean_difference(canary.after, canary.before) >= 0.01
            assert (
                parse_adapter(canary.blob).modules.keys() == parse_adapter(blobs[0]).modules.keys()
            )
            now = adapter_digest(await group.adapter_blob("policy"))
            assert now == policy, "the canary stays out of training"
            await group.save(first)
            await group.load(first)
            await group.save(second)
            (first / "rng-1.safetensors").unlink()
            with pytest.raises(LearnerError, match=r"first: learner-1\.load: .*rng-1\.safetensors"):
                await group.load(first)
        finally:
            group.stop()

    asyncio.run(run())
    saved = {path.name: load_file(path) for path in second.iterdir()}
    assert set(saved) == {
        *("policy.safetensors", "value.safetensors", "value_head.safetensors"),
        *(f"{kind}-{rank}.safetensors" for kind in ("optimizer", "rng") for rank in (0, 1)),
    }
    for name in set(saved) - {"rng-1.safetensors"}:
        before = load_file(first / name)
        assert before.keys() == saved[name].keys()
        assert all(torch.equal(before[key], saved[name][key]) for key in before), name


@pytest.mark.parametrize(
    ("fault", "said"),
    [(signal.SIGKILL, "learner-0 died"), (signal.SIGSTOP, "no sign of life for 3 s")],
)
def test_a_rank_that_is_lost_or_frozen_is_named(
    cluster: None, tiny_model: Path, fault: signal.Signals, said: str
) -> None:
    tree = CONFIG.model_dump(mode="json")
    tree["run"]["silence_s"], tree["learner"]["world_size"] = 3, 1

    async def run() -> None:
        group = LearnerGroup(validate(tree, "test"))
        before = learner_processes()
        try:
            await group.build(tiny_model, None)
            (pid,) = learner_processes() - before
            os.kill(pid, fault)
            with pytest.raises(LearnerError, match=said):
                await group.adapter_blob("policy")
        finally:
            group.stop()
            for left in learner_processes() - before:
                with suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)

    asyncio.run(run())


def test_what_an_update_warns_of_is_in_the_callers_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(*_: object) -> UpdateResult:
        return UpdateResult({}, [], warnings=["the value network diverges", "1 of 3 skipped"])

    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(ray, "put", lambda batch: batch)
    group = LearnerGroup(CONFIG)
    remote = SimpleNamespace(remote=answer)
    group._ranks = [SimpleNamespace(update=remote, ping=remote)]
    asyncio.run(group.update([]))
    assert said == ["the value network diverges", "1 of 3 skipped"]


def learner_processes() -> set[int]:
    return {
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "ray::LearnerActor" in " ".join(process.info["cmdline"] or [])
    }
