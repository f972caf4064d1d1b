"""How a run ends: one message and an exit status."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repo_ray.pipeline import run as job
from repo_ray.training.checkpoints import latest_checkpoint, save_checkpoint
from repo_ray.training.metrics import MetricsLog

Work = Callable[[Path], None]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The exit status of a run, without a cluster, whose phases do `work` in the run folder."""

    class Fake:
        def __init__(self, config: Any, folder: Any, *_: Any) -> None:
            self.root = folder.root

        async def main(self) -> None:
            Fake.work(self.root)  # type: ignore[attr-defined]

    def run_there(
        _config: Any, _address: Any, _display: Any, work: Coroutine[Any, Any, Any]
    ) -> Any:
        return asyncio.run(work)

    logger = logging.getLogger("repo_ray")  # what `log_to` changes is put back
    for owner, name in ((logging, "raiseExceptions"), (logger, "propagate"), (logger, "handlers")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(job, "Pipeline", Fake)
    monkeypatch.setattr(job, "connect", lambda *_: "no cluster")
    monkeypatch.setattr(job, "run_there", run_there)

    def ends(work: Work, folder: Path = tmp_path, resume: bool = False) -> int:
        Fake.work = staticmethod(work)  # type: ignore[attr-defined]
        off = ("judge.enabled=false", "warm_start=null")
        return job.run(None, [f"run.dir={folder}", "run.name=r", *off], resume, None)

    return ends


def test_a_full_disk_ends_the_run_with_its_place(
    ends: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unnamed(root: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def named(root: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(root / "trajectories" / "x"))

    for work, place in ((unnamed, "r'"), (named, "r/trajectories/x'")):
        assert ends(work, resume=work is named) == 1
        assert capsys.readouterr().err == (
            f"error: No space left on device: '{tmp_path}/{place}; the last checkpoint is whole, "
            "--resume continues\n"
        )


def test_a_run_folder_that_cannot_be_written_is_named(
    ends: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert ends(lambda root: None, folder=tmp_path / "file") == 1
    assert f"error: Not a directory: {tmp_path}/file/r" in capsys.readouterr().err


def test_an_error_that_says_nothing_of_a_file_keeps_its_traceback(ends: Callable[..., int]) -> None:
    def refused(root: Path) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    with pytest.raises(ConnectionRefusedError):
        ends(refused)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def big_checkpoint(root: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(b"x" * 2**22)

    save_checkpoint(root / "checkpoints", 2, {}, write, keep=1)


def metrics(root: Path) -> None:
    log = MetricsLog(root, 1)
    for step in range(2, 100):
        log.step(step, {"nested": {"x": "y" * 2**16}})


def trajectories(root: Path) -> None:
    pq.write_table(pa.table({"reply": [random.Random(0).randbytes(2**22)]}), root / "t.parquet")


@pytest.mark.parametrize("write", [big_checkpoint, metrics, trajectories])
def test_the_last_checkpoint_is_whole_when_the_disk_is_full(
    write: Work,
    ends: Callable[..., int],
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def two_checkpoints(root: Path) -> None:
        def small(folder: Path) -> None:
            (folder / "weights").write_bytes(b"weights")

        save_checkpoint(root / "checkpoints", 1, {"n": 7}, small, keep=1)
        write(root)

    assert ends(two_checkpoints, folder=small_disk) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: No space left on device: '"), error
    assert "Traceback" not in error
    kept = latest_checkpoint(small_disk / "r" / "checkpoints")
    assert kept is not None
    assert (kept.step, kept.state) == (1, {"n": 7})
    assert (kept.folder / "weights").read_bytes() == b"weights"
    # It continues once there is room.
    (small_disk / "r" / "metrics.jsonl").unlink(missing_ok=True)
    (small_disk / "r" / "t.parquet").unlink(missing_ok=True)
    assert ends(lambda root: None, folder=small_disk, resume=True) == 0
