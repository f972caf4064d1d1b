"""Which supervised stages are run again: by what they depend on, not by where it is."""

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from repo_ray.config import Config, load_config
from repo_ray.learner.fitting import TrainingError
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


def test_pairs_against_own_samples_wait_for_the_warm_start_and_follow_it(
    tmp_path: Path, trained: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sft.parquet").write_bytes(b"demonstrations")
    (tmp_path / "preferences.parquet").write_bytes(b"pairs")
    blob = tmp_path / "models" / "warm_start" / "adapter.safetensors"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"adapter")
    policies: list[bytes] = []

    async def write(
        config: Config, folder: RunFolder, model: Path, policy: bytes, rows: Path, tell: Any
    ) -> tuple[Path, str]:
        assert trained[-1][0] == "warm_start"
        policies.append(policy)
        return rows, "1 against own samples"

    monkeypatch.setattr(stages, "write_pairs", write)
    own = "train_reward_model.own_samples=0.5"
    run(tmp_path, own)
    assert [stage for stage, _ in trained] == ["warm_start", "reward_model"]
    assert policies == [b"adapter"]
    text = RunFolder(tmp_path).phases()["reward_model"]["result"]["text"]
    assert text == "trained; 1 against own samples"

    trained.clear()
    run(tmp_path, own)
    assert trained == []
    run(tmp_path, own, "warm_start.lr=1e-3")
    assert [stage for stage, _ in trained] == ["warm_start", "reward_model"]


def test_a_failed_warm_start_ends_the_stages_that_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sft", "preferences"):
        (tmp_path / f"{name}.parquet").write_bytes(b"rows")

    async def train(*arguments: Any, **options: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        raise TrainingError("no training rows")

    monkeypatch.setattr(stages, "train_stage", train)
    with pytest.raises(TrainingError, match="no training rows"):
        run(tmp_path, "train_reward_model.own_samples=1")


@pytest.mark.parametrize("answers", [1, 3])
def test_a_frozen_stage_is_ended_and_named(
    answers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Call:
        def __init__(self, *results: Any) -> None:
            self._results = list(results)

        async def remote(self, *_: Any) -> Any:
            if not self._results:
                await asyncio.Event().wait()
            return self._results.pop()

    class Frozen:
        """Answers so often, then never again; never ends by itself."""

        def __init__(self) -> None:
            self.train = Call()
            self.progress = Call(*[(1, 9, {"loss": 2.0})] * answers)

        def options(self, **_: Any) -> Any:
            return SimpleNamespace(remote=lambda: self)

    trainer, killed, told = Frozen(), list[Any](), list[str]()
    monkeypatch.setattr(stages, "TrainerActor", trainer)
    monkeypatch.setattr(stages.ray, "kill", killed.append)
    (tmp_path / "rows.parquet").write_bytes(b"rows")
    config = load_config(None, ["run.silence_s=0.2"])

    async def train() -> None:
        async with asyncio.timeout(20):
            rows = tmp_path / "rows.parquet"
            await stages.train_stage(config, "judge", tmp_path, rows, tmp_path, told.append)

    with pytest.raises(TrainingError, match=r"judge: no sign of life for 0\.2 s"):
        asyncio.run(train())
    assert killed == [trainer]
    assert told == ["1/9 loss 2.00"] * answers
