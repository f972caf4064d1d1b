"""A run may be cut off anywhere: inside of the saving of a checkpoint, and inside of any step."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_cases import PROMPTS, System, controller

from repo_ray.config.settings import RunConfig
from repo_ray.records import Score
from repo_ray.training.accounting import Ledger
from repo_ray.training.checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from repo_ray.training.schedule import Schedule
from repo_ray.training.trajectories import read_trajectories

# --- inside of a save ---------------------------------------------------------------------

CHANGES = ("mkdir", "rename", "unlink", "rmdir", "fsync")


class Killed(BaseException):
    """Stands in for SIGKILL: from here on nothing more reaches the disk."""


class Disk:
    """Counts what changes the disk; fails once at the `cut`-th change, or from then on."""

    def __init__(self, cut: int, kill: bool) -> None:
        self.cut, self.kill, self.changes = cut, kill, 0

    def change(self) -> None:
        self.changes += 1
        if self.kill and self.changes >= self.cut:
            raise Killed
        if self.changes == self.cut:
            raise OSError(errno.ENOSPC, "No space left on device")

    def put(self, patched: pytest.MonkeyPatch) -> None:
        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*args: Any, **named: Any) -> Any:
                self.change()
                return call(*args, **named)

            return changed

        for name in CHANGES:
            patched.setattr(os, name, counted(getattr(os, name)))
        write_text = Path.write_text

        def torn(path: Path, text: str, encoding: str = "utf-8") -> int:
            write_text(path, text[: len(text) // 2], encoding)
            self.change()
            return write_text(path, text, encoding)

        patched.setattr(Path, "write_text", torn)


def save(root: Path, step: int, mark: int, keep: int) -> Checkpoint:
    def write(folder: Path) -> None:
        (folder / "learner").mkdir()
        for name in ("weights", "optimizer"):
            (folder / "learner" / name).write_text(f"{name} {mark}")

    return save_checkpoint(root, step, {"mark": mark}, write, keep)


def mark_of(found: Checkpoint | None) -> int | None:
    """Which save wrote it; all of its parts are of the same."""
    if found is None:
        return None
    mark: int = found.state["mark"]
    for name in ("weights", "optimizer"):
        assert (found.folder / "learner" / name).read_text() == f"{name} {mark}"
    return mark


def cut_save(root: Path, step: int, mark: int, keep: int, cut: int, kill: bool) -> bool:
    """Saves, cut at that change of the disk; whether there were so many. The newest checkpoint
    is then the one before or the new one, complete."""
    before = mark_of(latest_checkpoint(root))
    done = False
    with pytest.MonkeyPatch.context() as patched:
        disk = Disk(cut, kill)
        disk.put(patched)
        with suppress(Killed, OSError):
            save(root, step, mark, keep)
            done = True
    assert mark_of(latest_checkpoint(root)) in ({mark} if done else {before, mark})
    return disk.changes >= cut


def check_next_save(root: Path, keep: int) -> None:
    """It works, and nothing is left of those that were cut."""
    newest = latest_checkpoint(root)
    made = save(root, newest.step + 1 if newest else 1, 99, keep)
    assert mark_of(latest_checkpoint(root)) == 99
    left = sorted(path.name for path in root.iterdir())
    assert not [name for name in left if name.startswith(".")]
    assert len(left) <= keep
    assert left[-1] == made.folder.name


@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("kill", [True, False])
def test_a_save_cut_at_each_change_in_turn_and_so_the_next(
    tmp_path: Path, kill: bool, later: int
) -> None:
    """Of the newest step again, and of a later one."""
    for first in count(1):
        for second in (2, 3, 8):
            root = tmp_path / f"{first}-{second}"
            save(root, 2, 0, keep=1)
            was_cut = cut_save(root, 2 + later, 1, 1, first, kill)
            cut_save(root, 2 + later, 2, 1, second, kill)
            check_next_save(root, keep=1)
        if not was_cut:
            break
    assert first > 15, "too few changes were found to cut at"


@settings(max_examples=40, deadline=None)
@given(
    saves=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30), st.booleans()), max_size=5),
    keep=st.integers(1, 3),
)
def test_any_saves_cut_anywhere_leave_the_old_or_the_new_checkpoint(
    saves: list[tuple[int, int, bool]], keep: int
) -> None:
    """Each is of the newest step again or of a later one."""
    with TemporaryDirectory() as folder:
        root = Path(folder) / "checkpoints"
        for mark, (later, cut, kill) in enumerate(saves):
            newest = latest_checkpoint(root)
            cut_save(root, (newest.step if newest else 0) + later, mark, keep, cut, kill)
        check_next_save(root, keep)


# --- inside of a step ---------------------------------------------------------------------

STEPS, BATCH = 6, 4


class CutError(Exception):
    """The run ends here, unprepared."""


def judge(reply: str) -> Score:
    """Fails for about every third reply, always the same ones; so some prompts are dropped."""
    chance = sha256(f"judge {reply}".encode()).digest()[0]
    return Score.invalid("judge", "timeout: 5 s") if chance % 3 == 0 else Score("judge", chance / 9)


def train(folder: Path, cut: int | None, stop: bool, staleness: int) -> Ledger | None:
    """Trains from the newest checkpoint on; its `cut`-th call ends it, or asks it to stop. The
    ledger if it came to its end."""
    calls = 0

    def count(what: str) -> None:
        nonlocal calls
        calls += 1
        if calls == cut and stop:
            made.request_stop()
        elif calls == cut:
            raise CutError

    run = {"max_attempts": 2, "max_invalid_share": 1.0, "checkpoint_every": 2}
    made = controller(folder, System({"judge": judge}, count), staleness=staleness, **run)
    try:
        outcome = asyncio.run(made.train())
    except CutError:
        return None
    return outcome.ledger if outcome.finished else None


def books(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of what was consumed and of what was dropped, in order."""
    columns = ("step", "sample_id", "prompt_id", "attempt", "reply")
    files = sorted((folder / "trajectories").glob("dropped-*.jsonl"))
    dropped = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return read_trajectories(folder / "trajectories", columns), dropped


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(1, 110), st.booleans()), max_size=4),
    staleness=st.integers(0, 1),
)
def test_a_run_cut_anywhere_and_resumed_uses_every_prompt_once(
    cuts: list[tuple[int, bool]], staleness: int
) -> None:
    with TemporaryDirectory() as folder:
        root, ledger = Path(folder), None
        for cut, stop in [*cuts, (None, False)]:
            ledger = ledger or train(root, cut, stop, staleness)
        assert ledger is not None
        consumed, dropped = books(root)

    ids = [row["sample_id"] for row in consumed]
    assert len(set(ids)) == len(ids), "a sample is in two batches"
    places = {(row["step"], int(row["sample_id"].split("-")[1])): row for row in consumed}
    order = [(row["step"], int(row["sample_id"].split("-")[1])) for row in consumed]
    assert all(before < after for before, after in pairwise(order))
    missing = {(row["step"], row["position"]): row for row in dropped}
    assert not places.keys() & missing.keys()
    assert len(missing) == len(dropped) > 0

    run = RunConfig(batch_size=BATCH, steps=STEPS)
    schedule = Schedule.of(PROMPTS, run, 1)
    planned = {
        (step, position): prompt.prompt_id
        for step in range(STEPS)
        for position, prompt in enumerate(schedule.batch(step))
    }
    assert {at: row["prompt_id"] for at, row in (places | missing).items()} == planned
    assert (ledger.issued, ledger.consumed) == (len(planned), len(consumed))
    assert (
        ledger.dropped
        == Counter(row["cause"] for row in dropped)
        == {"judge: timeout": len(dropped)}
    )


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_resumed_run_has_the_books_of_one_that_was_not_cut(
    tmp_path: Path, staleness: int
) -> None:
    whole = train(tmp_path / "whole", None, False, staleness)
    assert train(tmp_path / "cut", 60, False, staleness) is None
    assert train(tmp_path / "cut", None, False, staleness) == whole
    assert books(tmp_path / "cut") == books(tmp_path / "whole")
