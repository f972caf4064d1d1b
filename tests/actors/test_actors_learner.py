"""The learner's checkpoint files come from its ranks' nodes to the driver, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from repo_ray.actors.learner import LearnerError, LearnerGroup
from repo_ray.config.load import validate

CONFIG = validate(
    {
        "run": {"name": "ranks", "batch_size": 4},
        "model": {"dtype": "float32", "attention": "eager"},
        "lora": {"rank": 4, "alpha": 8},
        "learner": {"cpus": 0.5, "threads": 1, "world_size": 2, "timeout_s": 120},
    },
    "test",
)


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
            await group.save(first)
            await group.load(first)
            await group.save(second)
            (first / "rng-1.safetensors").unlink()
            with pytest.raises(LearnerError, match=r"first: learner-1\.load: .*rng-1\.safetensors"):
                await group.load(first)
        finally:
            group.stop()

    asyncio.run(run())
    saved = {path.name: path.read_bytes() for path in second.iterdir()}
    assert set(saved) == {
        *("policy.safetensors", "value.safetensors", "value_head.safetensors"),
        *(f"{kind}-{rank}.safetensors" for kind in ("optimizer", "rng") for rank in (0, 1)),
    }
    for name in set(saved) - {"rng-1.safetensors"}:
        assert (first / name).read_bytes() == saved[name]
