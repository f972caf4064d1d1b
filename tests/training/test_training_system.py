"""How the actors of a run are started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_ray.config import Config
from repo_ray.training import system
from repo_ray.training.publication import Publisher


@pytest.mark.parametrize(
    ("run", "pool", "sleeps"),
    [
        ({}, {}, False),
        ({"staleness": 1}, {}, True),
        ({}, {"replicas": 2}, True),
        ({}, {"autoscale": {"max": 2}}, True),
    ],
)
def test_only_a_lone_engine_of_a_synchronous_run_may_spin(
    monkeypatch: pytest.MonkeyPatch, run: dict[str, Any], pool: dict[str, Any], sleeps: bool
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(system, "ActorPool", lambda *_, **options: given.update(options))
    config = Config.model_validate({"run": run, "rollout": {"pool": pool}})
    system.rollout_pool(config, Path("model"), Publisher())
    assert (given["env_vars"].get("OMP_WAIT_POLICY") == "PASSIVE") is sleeps
    assert given["env_vars"]["VLLM_NO_USAGE_STATS"] == "1"
