"""A run whose judge may spend no more: it stops with a checkpoint, and goes on when it may."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repo_ray.config.load import validate
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.records import Message, Prompt, Rollout, Score
from repo_ray.training.checkpoints import latest_checkpoint
from repo_ray.training.loop import Controller, Outcome, RunError
from repo_ray.training.metrics import read_metrics
from repo_ray.training.schedule import Schedule

PROMPTS = [Prompt(f"p{i}", (Message("user", f"hello {i}"),)) for i in range(24)]


class Pool:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls = 0

    async def call(self, method: str, *arguments: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(0)
        return self.answer(*arguments)


class System:
    """Stands in for engines, learner and scorers; the judge has `money` scores left to give."""

    def __init__(self, money: int, refusal: str = "spend_limit: 5 of 5 is spent") -> None:
        self.money = money
        self.refusal = refusal
        self.version = 0
        self.rollout = Pool(self._sample)
        self.scorers = {"judge": Pool(self._judge)}
        self.pools: dict[str, Any] = {}
        self.learner = self.publisher = self
        self.current, self.verified = None, {}  # of a publisher

    def _sample(self, sample_id: str, prompt_id: str, attempt: int, ids: Any, seed: int) -> Rollout:
        version = (self.version,)
        return Rollout(
            sample_id, prompt_id, attempt, (1,), (7,), (True,), (-0.5,), version, "stop", "ok"
        )

    def _judge(self, prompt: Prompt, reply: str) -> Score:
        if self.money == 0:
            return Score.invalid("judge", self.refusal)
        self.money -= 1
        return Score("judge", 10.0)

    async def update(self, batch: Any) -> UpdateResult:
        return UpdateResult({}, [])

    async def adapter_blob(self, name: str) -> bytes:
        return b"blob"

    async def save(self, folder: Path) -> None:
        (folder / "weights").write_text(str(self.version))

    async def push(self, pool: Any, blob: bytes, version: int) -> list[Any]:
        self.version = version
        return []


def mailbox() -> Any:
    async def next_request(timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def report(status: Any) -> None: ...

    return SimpleNamespace(next_request=next_request, report=report)


def train(folder: Path, system: System, staleness: int = 0) -> Outcome:
    """Trains, or continues, six steps of four samples."""
    run = {"name": "r", "batch_size": 4, "steps": 6, "epochs": 1, "staleness": staleness}
    tree = {
        "run": {**run, "dir": str(folder), "checkpoint_every": 5, "max_attempts": 3},
        "reward_model": {"enabled": False},
        "rules": {"enabled": False},
        "monitor": {"every": 0},
    }
    config = validate(tree, "test")
    checkpoint = latest_checkpoint(folder / "checkpoints")
    system.version = checkpoint.step if checkpoint else 0
    controller: Any = Controller(
        config,
        folder,
        system,  # type: ignore[arg-type]
        Schedule.of(PROMPTS, config.run, 1),
        lambda prompt: [1],
        mailbox(),
        lambda done, total, text: None,
        checkpoint,
    )
    outcome: Outcome = asyncio.run(controller.train())
    return outcome


@pytest.mark.parametrize("staleness", [0, 1])
def test_the_run_stops_with_a_checkpoint_and_goes_on_from_it(
    tmp_path: Path, staleness: int
) -> None:
    """Ten scores are two batches and a half: two updates are made and kept."""
    system = System(money=10)
    with pytest.raises(
        RunError, match=r"step 2: .*spend_limit: 5 of 5 is spent\..*--resume .*judge\.max_spend"
    ):
        train(tmp_path, system, staleness)
    stopped = latest_checkpoint(tmp_path / "checkpoints")
    assert stopped is not None
    assert stopped.step == 2
    assert stopped.state["ledger"]["consumed"] == stopped.state["ledger"]["issued"] == 8
    assert stopped.state["ledger"]["dropped"] == {}
    assert system.rollout.calls <= 4 * (3 + staleness), "no reply was sampled a second time"

    outcome = train(tmp_path, System(money=100), staleness)
    assert outcome.finished
    assert outcome.step == 6
    assert outcome.ledger.balanced
    assert outcome.ledger.issued == outcome.ledger.consumed == 24
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_lost_its_budget_stops_the_same_way(tmp_path: Path) -> None:
    system = System(5, "budget_lost: the actor judge-budget does not answer admit")
    with pytest.raises(RunError, match=r"step 1: .*budget_lost.*--resume$"):
        train(tmp_path, system)
    stopped = latest_checkpoint(tmp_path / "checkpoints")
    assert stopped is not None
    assert stopped.step == 1
