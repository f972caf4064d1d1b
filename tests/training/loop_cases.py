"""A controller over stand-ins: replies and scores follow from names alone, the learner counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from repo_ray.config.load import validate
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.records import Message, Prompt, Rollout, Score, Source
from repo_ray.training.checkpoints import latest_checkpoint
from repo_ray.training.loop import Controller
from repo_ray.training.schedule import Schedule

PROMPTS = [Prompt(f"p{i}", (Message("user", f"hello {i}"),)) for i in range(24)]


class Pool:
    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer

    async def call(self, method: str, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return self.answer(*arguments)


class System:
    """Stands in for engines, learner and scorers. `on_call(what)` is told of every call to one,
    before it does anything. The k-th update is skipped for the k-th of `skips`, if it is a reason.
    """

    def __init__(
        self,
        scores: Mapping[Source, Callable[[str], Score]],
        on_call: Callable[[str], None] = lambda what: None,
        skips: Sequence[str] = (),
    ) -> None:
        self.on_call = on_call
        self.skips = iter(skips)
        self.version = 0
        self.rollout = Pool(self._sample)
        self.scorers = {source: Pool(self._scorer(score)) for source, score in scores.items()}
        self.pools: dict[str, Any] = {}
        self.learner = self.publisher = self
        self.current, self.verified = None, {}  # of a publisher

    def _sample(self, sample_id: str, prompt_id: str, attempt: int, ids: Any, seed: int) -> Rollout:
        self.on_call("sample")
        reply = ((7,), (True,), (-0.5,), (self.version,), "stop", sample_id)
        return Rollout(sample_id, prompt_id, attempt, (1,), *reply)

    def _scorer(self, score: Callable[[str], Score]) -> Callable[[Prompt, str], Score]:
        def scored(prompt: Prompt, reply: str) -> Score:
            self.on_call("score")
            return score(reply)

        return scored

    async def update(self, batch: Any) -> UpdateResult:
        self.on_call("update")
        return UpdateResult({}, [], next(self.skips, ""))

    async def adapter_blob(self, name: str) -> bytes:
        return b"blob"

    async def push(self, pool: Any, blob: bytes, version: int) -> list[Any]:
        self.on_call("push")
        self.version = version
        return []

    async def save(self, folder: Path) -> None:
        self.on_call("save")
        (folder / "weights").write_text(str(self.version))


def controller(folder: Path, system: System, **run: Any) -> Controller:
    """Six steps of four prompts, from the newest checkpoint on; `system.version` is set to it."""

    async def next_request(timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def report(status: Any) -> None: ...

    tree = {
        "run": {"name": "r", "dir": str(folder), "batch_size": 4, "steps": 6, "staleness": 0} | run,
        **{
            s: {"enabled": False}
            for s in ("reward_model", "judge", "rules")
            if s not in system.scorers
        },
        "monitor": {"every": 0},
    }
    config = validate(tree, "test")
    folder.mkdir(exist_ok=True)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    system.version = checkpoint.step if checkpoint else 0
    return Controller(
        config,
        folder,
        system,  # type: ignore[arg-type]
        Schedule.of(PROMPTS, config.run, 1),
        lambda prompt: [1],
        SimpleNamespace(next_request=next_request, report=report),  # type: ignore[arg-type]
        lambda done, total, text: None,
        checkpoint,
    )
