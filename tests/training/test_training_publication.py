"""The controller believes no engine: what each reports is compared with what was published."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import ray
import torch

from repo_ray.models.adapters import adapter_digest, build_blob
from repo_ray.rollouts.publication import EngineState, PublicationError, PushReport
from repo_ray.training.publication import Publisher


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """The object store holds the blobs."""
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    yield
    ray.shutdown()


def blob(value: float) -> bytes:
    a, b = torch.full((2, 4), value), torch.full((4, 2), value)
    return build_blob({"m.lora_A.weight": a, "m.lora_B.weight": b}, 2, 2)


@dataclass
class Engine:
    """Reports what it serves; `deaf` ones answer a push without taking it."""

    name: str
    version: int = 0
    digest: str = ""
    deaf: bool = False
    lies: bool = False

    def push(self, version: int, digest: str) -> PushReport:
        if not self.deaf:
            self.version, self.digest = version, digest
        told = (version, digest) if self.lies else (self.version, self.digest)
        return PushReport(self.name, *told, 1, 0.0, 0.0, 0.0, 0.0, 0.0)


class Pool:
    def __init__(self, *engines: Engine) -> None:
        self.engines = engines

    async def broadcast(self, method: str, *args: Any) -> dict[str, Any]:
        if method == "push":
            _, version, digest = args
            return {e.name: e.push(version, digest) for e in self.engines}
        return {e.name: EngineState(e.name, e.version, e.digest, True) for e in self.engines}


def push(*engines: Engine) -> list[PushReport]:
    publisher = Publisher()
    return asyncio.run(publisher.push(Pool(*engines), blob(0.5), 3))  # type: ignore[arg-type]


def test_a_push_reaches_every_engine() -> None:
    engines = [Engine("rollout-0"), Engine("rollout-1")]
    reports = push(*engines)
    assert [(r.engine, r.version) for r in reports] == [("rollout-0", 3), ("rollout-1", 3)]
    assert {e.digest for e in engines} == {adapter_digest(blob(0.5))}


def test_an_engine_that_did_not_take_the_push_stops_the_run() -> None:
    with pytest.raises(PublicationError, match=r"rollout-1 serves adapter version 0 .*was 3"):
        push(Engine("rollout-0"), Engine("rollout-1", deaf=True))


def test_an_engine_that_says_yes_but_serves_the_old_adapter_stops_the_run() -> None:
    with pytest.raises(PublicationError, match="rollout-0 serves adapter version 0"):
        push(Engine("rollout-0", deaf=True, lies=True))


def test_the_same_version_with_other_weights_stops_the_run() -> None:
    stale = Engine("rollout-0", version=3, digest=adapter_digest(blob(0.1)), deaf=True)
    with pytest.raises(PublicationError, match="rollout-0 serves"):
        push(stale)


def test_it_knows_what_each_engine_last_proved_to_serve() -> None:
    publisher = Publisher()
    engines = [Engine("rollout-0"), Engine("rollout-1")]
    asyncio.run(publisher.push(Pool(*engines), blob(0.5), 3))  # type: ignore[arg-type]
    assert publisher.verified == {"rollout-0": 3, "rollout-1": 3}
    engines[1].deaf = True
    with pytest.raises(PublicationError):
        asyncio.run(publisher.push(Pool(*engines), blob(0.6), 4))  # type: ignore[arg-type]
    assert publisher.verified == {"rollout-0": 3, "rollout-1": 3}
    # One died and was replaced: only those that are there now count.
    asyncio.run(publisher.push(Pool(engines[0], Engine("rollout-2")), blob(0.6), 5))  # type: ignore[arg-type]
    assert publisher.verified == {"rollout-0": 5, "rollout-2": 5}
