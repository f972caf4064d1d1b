"""The run's copy on a storage service: refusals before the run, uploads during it, its end."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from repo_ray.config import Config, ConfigError, dump_config
from repo_ray.config.load import validate
from repo_ray.pipeline.mirroring import Uploads, mirrored, open_mirror
from repo_ray.pipeline.run_folder import RunFolder, open_run_folder
from repo_ray.pipeline.signals import Stopped
from repo_ray.storage.mirror import Mirror
from repo_ray.storage.store import StorageError
from repo_ray.training.checkpoints import latest_checkpoint, save_checkpoint


def config(tmp_path: Path, machine: str = "here", **run: Any) -> Config:
    tree = {"name": "r", "dir": str(tmp_path / machine), "storage": f"file://{tmp_path}/stored"}
    return validate({"run": tree | run}, "test")


def save(folder: RunFolder, step: int) -> None:
    def write(place: Path) -> None:
        (place / "w").write_text(str(step))

    save_checkpoint(folder.checkpoints, step, {}, write, keep=2)


def made(tmp_path: Path, steps: int) -> Config:
    """A run that made so many steps and is stored."""
    settings = config(tmp_path)
    mirror = open_mirror(settings, False, print)
    folder = open_run_folder(settings, False)
    with mirrored(mirror):
        for step in range(1, steps + 1):
            save(folder, step)
    return settings


def test_without_the_setting_nothing_is_stored(tmp_path: Path) -> None:
    settings = config(tmp_path, storage=None)
    assert open_mirror(settings, False, print) is None
    with mirrored(None):
        pass
    uploads = Uploads(None)
    asyncio.run(uploads.start())
    assert uploads.metrics() == {}


def test_a_run_goes_on_from_its_copy_on_another_machine(tmp_path: Path) -> None:
    settings = made(tmp_path, 2)
    there, told = config(tmp_path, "there"), list[str]()
    mirror = open_mirror(there, True, told.append)
    folder = open_run_folder(there, True)
    assert folder.config.read_text() == dump_config(settings)
    checkpoint = latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    assert (checkpoint.step, (checkpoint.folder / "w").read_text()) == (2, "2")
    assert "restored from file://" in told[0]
    assert "2 steps" in told[0]
    with mirrored(mirror):
        save(folder, 3)
    shutil.rmtree(folder.root)
    open_mirror(there, True, told.append)
    assert "3 steps" in told[-1]


def test_a_name_that_is_taken_on_the_storage_is_refused(tmp_path: Path) -> None:
    made(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"stored/r exists already: continue it with --resume"):
        open_mirror(config(tmp_path, "there"), False, print)
    assert not (tmp_path / "there").exists()


def test_an_older_folder_does_not_overwrite_a_run_that_went_on_elsewhere(tmp_path: Path) -> None:
    settings = made(tmp_path, 1)
    there = config(tmp_path, "there")
    mirror = open_mirror(there, True, print)
    with mirrored(mirror):
        save(open_run_folder(there, True), 2)
    with pytest.raises(ConfigError, match=r"here/r has 1 steps, .*stored/r has 2: the run went on"):
        open_mirror(settings, True, print)


def test_storage_that_cannot_be_written_is_refused_with_key_and_cause(tmp_path: Path) -> None:
    (tmp_path / "stored").write_text("a file, no folder")
    with pytest.raises(ConfigError, match=r"run\.storage: file://.*stored/r/\.probe.*written"):
        open_mirror(config(tmp_path), False, print)


class Failing:
    """A mirror whose uploads take a while and fail as told."""

    def __init__(self, *failures: bool, seconds: float = 0.0) -> None:
        self.root, self.step = Path("runs/r"), 0
        self.failures, self.seconds = list(failures), seconds
        self.running = self.most = self.calls = 0

    def claim(self) -> None: ...

    def sync(self) -> None:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(self.seconds)
        self.running -= 1
        if self.failures and self.failures.pop(0):
            raise StorageError("s3://b/r: could not be written: no route")
        self.step = self.calls


def failing(*failures: bool, seconds: float = 0.0) -> Any:
    return Failing(*failures, seconds=seconds)


def test_a_failed_upload_is_counted_and_the_next_one_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = failing(True, False)

    async def run() -> list[dict[str, int]]:
        uploads, seen = Uploads(mirror), []
        for _ in range(3):
            await uploads.start()
            seen.append(uploads.metrics())
        return seen

    with caplog.at_level(logging.WARNING, "repo_ray"):
        seen = asyncio.run(run())
    assert [values["storage/failed_uploads"] for values in seen] == [0, 1, 1]
    assert seen[-1]["storage/checkpoint_step"] == 2
    assert "no route" in caplog.text


def test_uploads_do_not_hold_up_the_run_and_never_overlap() -> None:
    mirror = failing(seconds=0.2)

    async def run() -> tuple[float, int]:
        uploads = Uploads(mirror)
        began = time.monotonic()
        await uploads.start()
        first = time.monotonic() - began
        ticks = 0
        for _ in range(2):
            task = asyncio.ensure_future(uploads.start())
            while not task.done():
                await asyncio.sleep(0.01)
                ticks += 1
        return first, ticks

    first, ticks = asyncio.run(run())
    assert first < 0.15
    assert ticks > 10
    assert (mirror.most, mirror.calls) == (1, 3)


def test_a_finished_run_that_cannot_be_uploaded_has_failed() -> None:
    with (
        pytest.raises(StorageError, match=r"no route; everything is in runs/r"),
        mirrored(failing(True)),
    ):
        pass


def test_a_stopped_run_is_saved_only_when_it_is_uploaded() -> None:
    with pytest.raises(StorageError, match="no route"), mirrored(failing(True)):
        raise Stopped
    with pytest.raises(Stopped), mirrored(failing(False)):
        raise Stopped


def test_the_error_of_the_run_is_not_hidden_by_that_of_its_upload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(RuntimeError, match="the reason"), mirrored(failing(True)):
        raise RuntimeError("the reason")
    assert "no route" in caplog.text


def test_what_a_failed_run_wrote_is_uploaded(tmp_path: Path) -> None:
    settings = config(tmp_path)
    mirror = open_mirror(settings, False, print)
    assert isinstance(mirror, Mirror)
    folder = open_run_folder(settings, False)
    (folder.root / "run.log").write_text("why")
    with pytest.raises(RuntimeError), mirrored(mirror):
        raise RuntimeError
    assert mirror.store.read("run.log") == b"why"
