"""Updates of which nothing can be applied: counted by the real loop, which stops when they repeat."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repo_ray.config.load import validate
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.records import Message, Prompt, Rollout, Score
from repo_ray.training.loop import Controller, RunError
from repo_ray.training.metrics import read_metrics
from repo_ray.training.schedule import Schedule


def train(folder: Path, score: Score, updates: list[str], **run: Any) -> None:
    """Trains 6 steps of 2 prompts; update k is skipped for the k-th reason, if there is one."""
    tree = {
        "run": {"name": "r", "batch_size": 2, "steps": 6, "checkpoint_every": 9, **run},
        "reward_model": {"enabled": False},
        "judge": {"enabled": False},
    }
    config = validate(tree, "test")
    current = SimpleNamespace(version=0)

    async def sample(method: str, sample_id: str, prompt_id: str, *_: Any) -> Rollout:
        versions = (current.version,)
        return Rollout(sample_id, prompt_id, 0, (1,), (7,), (True,), (-0.5,), versions, "stop", "x")

    async def rules(*_: Any) -> Score:
        return score

    async def update(batch: Any) -> UpdateResult:
        return UpdateResult({}, [], updates.pop(0))

    async def push(pool: Any, blob: bytes, version: int) -> list[Any]:
        current.version = version
        return []

    async def nothing(*_: Any) -> bytes:
        return b""

    async def never(*_: Any) -> None:
        await asyncio.sleep(60)

    prompts = [Prompt(f"p{i}", (Message("user", "hi"),)) for i in range(20)]
    controller = Controller(
        config,
        folder,
        SimpleNamespace(  # type: ignore[arg-type]
            learner=SimpleNamespace(update=update, adapter_blob=nothing, save=nothing),
            publisher=SimpleNamespace(push=push, current=current, verified={}),
            rollout=SimpleNamespace(call=sample),
            scorers={"rules": SimpleNamespace(call=rules)},
            pools={},
        ),
        Schedule.of(prompts, config.run, 1),
        lambda prompt: [1],
        SimpleNamespace(next_request=never),  # type: ignore[arg-type]
        lambda *_: None,
        None,
    )
    asyncio.run(controller.train())


VALID, INVALID = Score("rules", 10.0), Score.invalid("rules", "timeout: 5 s")
FAULT = "non-finite gradient"


def test_skipped_updates_are_in_the_metrics_and_one_that_is_applied_starts_the_count_anew(
    tmp_path: Path,
) -> None:
    updates = [FAULT, FAULT, "", FAULT, FAULT, ""]
    train(tmp_path, VALID, list(updates))
    assert [row["skipped"] for row in read_metrics(tmp_path)] == updates


def test_the_third_skipped_update_in_a_row_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"3 updates in a row were skipped, .* because of: {FAULT}"):
        train(tmp_path, VALID, ["", FAULT, FAULT, FAULT])


def test_a_batch_whose_scores_are_all_invalid_ends_the_run_with_the_causes(tmp_path: Path) -> None:
    # Two prompts, three attempts each.
    with pytest.raises(RunError, match=r"step 0: 100% of the scores are invalid .* timeout x6"):
        train(tmp_path, INVALID, [])
    assert read_metrics(tmp_path) == []


def test_where_any_share_may_be_invalid_an_empty_batch_is_a_skipped_update(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"3 updates in a row .* every prompt was dropped"):
        train(tmp_path, INVALID, [], max_invalid_share=1.0)
    first, second = read_metrics(tmp_path)
    assert first["skipped"] == "empty batch: every prompt was dropped"
    assert first["batch/size"] == 0
    ledger = second["ledger"]
    assert (ledger["issued"], ledger["consumed"], ledger["samples"]) == (4, 0, 12)
    assert ledger["dropped"] == {"rules: timeout": 4}
    assert ledger["invalid"] == {"rules: timeout": 12}
