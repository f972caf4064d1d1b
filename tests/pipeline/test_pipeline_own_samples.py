"""Pairs against the warm start's own samples: which there are, and what becomes of failed ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config.load import validate
from repo_ray.data.reader import read_preferences
from repo_ray.pipeline import own_samples
from repo_ray.pipeline.own_samples import OWN_SAMPLE, write_pairs
from repo_ray.pipeline.run_folder import RunFolder
from repo_ray.records import PREFERENCES_SCHEMA, Rollout


class Engines:
    """Stands in for the actors: replies by prompt id, and whether it was stopped."""

    def __init__(self, replies: dict[str, str | None]) -> None:
        self.replies = replies
        self.prepared: list[tuple[bytes, int]] = []
        self.running = False
        self.seeds: dict[str, int] = {}

    def prepare(self, blob: bytes, version: int) -> None:
        assert not self.running
        self.prepared.append((blob, version))

    def of(self, config: Any, model: Path, publisher: Any) -> Engines:
        assert publisher is self
        return self

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def call(
        self, method: str, sample_id: str, prompt_id: str, attempt: int, ids: Any, seed: int
    ) -> Rollout:
        assert self.running
        self.seeds[prompt_id] = seed
        text = self.replies.get(prompt_id, f" my own to {prompt_id} ")
        if text is None:
            raise CallTimeoutError("too slow")
        mask, values = (True,), (-0.5,)
        return Rollout(sample_id, prompt_id, 0, (1,), (7,), mask, values, (1,), "stop", text)


def preferences(folder: Path) -> Path:
    def row(i: int) -> dict[str, Any]:
        content = "a room " * (400 if i == 3 else 1)
        return {
            "prompt_id": f"p{i}",
            "messages": [{"role": "user", "content": content}],
            "chosen": f"good {i}",
            "rejected": f"bad {i}",
            "defect": "blunt",
            "context": '{"items": [1]}',
            "split": "heldout" if i >= 8 else "train",
        }

    path = folder / "preferences.parquet"
    pq.write_table(pa.Table.from_pylist([row(i) for i in range(12)], PREFERENCES_SCHEMA), path)
    return path


def written(
    tiny_model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    replies: dict[str, str | None],
    **stage: Any,
) -> tuple[Engines, str, Path]:
    engines = Engines(replies)
    monkeypatch.setattr(own_samples, "rollout_pool", engines.of)
    monkeypatch.setattr(own_samples, "Publisher", lambda: engines)
    config = validate(
        {
            "model": {"path": str(tiny_model), "max_prompt_tokens": 200},
            "train_reward_model": stage,
        },
        "test",
    )
    run = RunFolder(folder / "run")
    pairs = preferences(folder)
    out, text = asyncio.run(write_pairs(config, run, tiny_model, b"adapter", pairs, lambda _: None))
    return engines, text, out


def test_every_fitting_pair_gets_one_more_against_an_own_sample(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"p0": None, "p1": "good 1", "p2": "  "}
    engines, text, out = written(tiny_model, tmp_path, monkeypatch, failed, own_samples=1.0)
    pairs = read_preferences(out)
    own = [pair for pair in pairs if pair.defect == OWN_SAMPLE]
    assert {p.prompt.prompt_id for p in own} == {f"p{i}" for i in range(4, 12)}
    assert all(p.rejected == f"my own to {p.prompt.prompt_id}" for p in own)
    assert text == "8 against own samples (11 drawn)"
    # The written pairs are all there as they were, each before its own.
    assert [p for p in pairs if p.defect != OWN_SAMPLE] == read_preferences(preferences(tmp_path))
    by_prompt = {p.prompt.prompt_id: p for p in pairs if p.defect != OWN_SAMPLE}
    for pair in own:
        first = by_prompt[pair.prompt.prompt_id]
        assert (pair.prompt, pair.chosen, pair.split) == (first.prompt, first.chosen, first.split)
    assert engines.prepared == [(b"adapter", 1)]
    assert not engines.running
    assert len(set(engines.seeds.values())) == 11


def test_only_the_rows_of_the_stage_are_written_and_only_a_share_is_sampled(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"own_samples": 0.5, "max_rows": 4, "max_eval_rows": 2}
    _, text, out = written(tiny_model, tmp_path, monkeypatch, {}, **limits)
    pairs = read_preferences(out)
    assert text == "3 against own samples (3 drawn)"
    assert len(pairs) == 9
    again = tmp_path / "again"
    again.mkdir()
    assert read_preferences(written(tiny_model, again, monkeypatch, {}, **limits)[2]) == pairs


def test_engines_are_stopped_where_sampling_fails(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines({})

    async def dead(*arguments: Any) -> Rollout:
        raise RuntimeError("no engine left")

    monkeypatch.setattr(engines, "call", dead)
    monkeypatch.setattr(own_samples, "rollout_pool", engines.of)
    monkeypatch.setattr(own_samples, "Publisher", lambda: engines)
    config = validate(
        {"model": {"path": str(tiny_model)}, "train_reward_model": {"own_samples": 1}}, "test"
    )
    run = RunFolder(tmp_path)
    with pytest.raises(RuntimeError, match="no engine left"):
        asyncio.run(
            write_pairs(config, run, tiny_model, None, preferences(tmp_path), lambda _: None)
        )
    assert not engines.running
    assert not run.data.exists()
