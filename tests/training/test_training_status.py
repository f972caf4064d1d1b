"""The controller's status, which terminal and Prometheus show, through the real loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from repo_ray.config.load import validate
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.logs import CONTEXT
from repo_ray.records import Message, Prompt, Rollout, Score
from repo_ray.training.loop import Controller
from repo_ray.training.schedule import Schedule
from repo_ray.training.telemetry import GAUGES, gauges


class Pool:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def call(self, method: str, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return self.answer(*arguments)


class System:
    """One engine; rules that fail for every second reply of step 0; the learner is a counter."""

    def __init__(self) -> None:
        self.current = SimpleNamespace(version=0)
        self.verified = {"rollout-0": 0}
        self.pools: dict[str, Any] = {}
        self.learner = self.publisher = self
        self.rollout = Pool(self.sample)
        self.scorers = {"rules": Pool(self.score)}

    def sample(self, sample_id: str, prompt_id: str, attempt: int, ids: Any, seed: int) -> Rollout:
        versions = (self.verified["rollout-0"],)
        return Rollout(
            sample_id, prompt_id, attempt, (1,), (7,), (True,), (-0.5,), versions, "stop", sample_id
        )

    def score(self, prompt: Prompt, reply: str) -> Score:
        if reply in ("0-1-0", "0-3-0"):
            return Score.invalid("rules", "timeout: 5 s")
        return Score("rules", 10.0)

    async def update(self, batch: Any) -> UpdateResult:
        return UpdateResult({"entropy": 2.5}, [])

    async def adapter_blob(self, name: str) -> bytes:
        return b"blob"

    async def push(self, pool: Any, blob: bytes, version: int) -> list[Any]:
        self.current = SimpleNamespace(version=version)
        self.verified = {"rollout-0": version}
        return []

    async def save(self, folder: Path) -> None: ...


def run(folder: Path, steps: int) -> list[dict[str, Any]]:
    """The status after each push, the newest pushed step not being counted yet."""
    # Four of the rules' eight scores may be invalid, and no batch is collected ahead.
    small = {"name": "r", "batch_size": 4, "max_invalid_share": 0.5, "staleness": 0}
    tree = {
        "run": {**small, "steps": steps, "checkpoint_every": 9},
        "reward_model": {"enabled": False},
        "judge": {"enabled": False},
    }
    config = validate(tree, "test")
    seen: list[dict[str, Any]] = []
    prompts = [Prompt(f"p{i}", (Message("user", "hi"),)) for i in range(20)]

    async def after_step(updates: int) -> dict[str, Any]:
        seen.append(controller.status())
        return {"heldout/gold": 0.25} if updates == 0 else {}

    async def never(*_: Any) -> None:
        await asyncio.sleep(60)

    mailbox = SimpleNamespace(next_request=never)
    controller = Controller(
        config,
        folder,
        System(),  # type: ignore[arg-type]
        Schedule.of(prompts, config.run, 1),
        lambda prompt: [1],
        mailbox,  # type: ignore[arg-type]
        lambda *_: None,
        None,
        after_step,
    )
    asyncio.run(controller.train())
    seen.append(controller.status())
    return seen


def test_the_status_follows_the_run(tmp_path: Path) -> None:
    before, first, second, after = run(tmp_path, steps=2)
    assert [s["step"] for s in (before, first, second, after)] == [0, 0, 1, 2]
    assert [s["versions"]["learner"] for s in (before, first, second, after)] == [0, 1, 2, 2]
    assert after["versions"] == {"learner": 2, "rollout-0": 2}
    assert CONTEXT.step == 2

    assert before["ledger"]["issued"] == 0
    # Four prompts; two were sampled again, because a score of theirs was invalid.
    assert first["ledger"] == {
        "issued": 4,
        "consumed": 4,
        "dropped": {},
        "samples": 6,
        "scores": 8,
        "scores_by_source": {"rules": 8},
        "invalid": {"rules: timeout": 4},  # each scored twice
    }
    assert (after["ledger"]["issued"], after["ledger"]["consumed"]) == (8, 8)
    assert after["metrics"]["reply/discarded_tokens"] == 1.0

    assert first["phase"] == "check"
    assert set(after["phases"]) == {"check", "collect", "update", "push", "checkpoint"}
    assert after["metrics"]["entropy"] == 2.5
    assert after["metrics"]["rollout/lag"] == 0
    assert after["metrics"]["reward/e_func"] == 10.0
    assert after["metrics"]["heldout/gold"] == 0.25  # from the last step that had one
    assert {name for name, _, _ in gauges(after)} <= set(GAUGES)
