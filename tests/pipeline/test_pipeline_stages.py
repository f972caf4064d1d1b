"""Which supervised stages are run again: by what they depend on, not by where it is."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from repo_ray.config import load_config
from repo_ray.pipeline import stages
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import RunFolder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Names of the stages that are trained, each with whether it was alone."""
    done: list[tuple[str, bool]] = []

    async def train(config: Any, stage: str, *arguments: Any, alone: bool) -> dict[str, Any]:
        done.append((stage, alone))
        await asyncio.sleep(0)
        return {"text": "trained"}

    monkeypatch.setattr(stages, "train_stage", train)
    return done


def run(root: Path, *overrides: str) -> None:
    config = load_config(None, ["judge.enabled=false", *overrides])
    data = {name: root / f"{name}.parquet" for name in ("sft", "preferences")}
    display = Display()
    display.console = Console(file=io.StringIO())
    asyncio.run(stages.run_stages(config, RunFolder(root), root, data, display))


def test_a_finished_stage_is_known_by_its_settings_and_the_content_of_its_data(
    tmp_path: Path, trained: list[tuple[str, bool]]
) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "sft.parquet").write_bytes(b"demonstrations")
    (root / "preferences.parquet").write_bytes(b"pairs")
    run(root)
    assert sorted(trained) == [("reward_model", False), ("warm_start", False)]

    moved = root.rename(tmp_path / "moved")
    trained.clear()
    run(moved)
    assert trained == []

    (moved / "preferences.parquet").write_bytes(b"other pairs")
    run(moved)
    assert trained == [("reward_model", True)]

    trained.clear()
    run(moved, "warm_start.lr=1e-3")
    assert trained == [("warm_start", True)]
