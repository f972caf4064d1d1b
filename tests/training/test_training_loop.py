"""The loop's ends: what stops a run says why, and a stop loses nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from loop_cases import System, controller

from repo_ray.records import Score
from repo_ray.training.checkpoints import REWARD, RUN, best_checkpoint, latest_checkpoint
from repo_ray.training.loop import RunError
from repo_ray.training.metrics import read_metrics
from repo_ray.training.trajectories import read_trajectories


def rules(reply: str) -> Score:
    return Score("rules", 10.0)


def dead_judge(reply: str) -> Score:
    return Score.invalid("judge", "http 503: away")


def test_a_dead_judge_among_sources_that_answer_stops_the_run(tmp_path: Path) -> None:
    """Half of all scores are invalid, but all of the judge's."""
    system = System({"judge": dead_judge, "rules": rules})
    made = controller(tmp_path, system, max_attempts=2)
    with pytest.raises(
        RunError,
        match=r"step 0: 100% of the judge scores are invalid \(run\.max_invalid_share is 50%\): "
        r"judge: http 503 x8",
    ):
        asyncio.run(made.train())


FAULT = "non-finite gradient"


def test_skipped_updates_are_in_the_metrics_and_one_that_is_applied_starts_the_count_anew(
    tmp_path: Path,
) -> None:
    skips = [FAULT, FAULT, "", FAULT, FAULT, ""]
    asyncio.run(controller(tmp_path, System({"rules": rules}, skips=skips)).train())
    assert [row["skipped"] for row in read_metrics(tmp_path)] == skips


def test_the_third_skipped_update_in_a_row_ends_the_run(tmp_path: Path) -> None:
    made = controller(tmp_path, System({"rules": rules}, skips=["", FAULT, FAULT, FAULT]))
    with pytest.raises(RunError, match=f"3 updates in a row were skipped, .* because of: {FAULT}"):
        asyncio.run(made.train())


def test_a_stop_for_empty_batches_says_why_prompts_were_dropped(tmp_path: Path) -> None:
    system = System({"judge": dead_judge, "rules": rules})
    made = controller(tmp_path, system, max_invalid_share=1.0, max_skipped_updates=2)
    with pytest.raises(
        RunError,
        match=r"2 updates in a row were skipped, the last because of: empty batch: every prompt "
        r"was dropped \(judge: http 503 x4\)",
    ):
        asyncio.run(made.train())


def test_every_prompt_of_a_step_is_in_its_files_also_when_the_step_is_made_again(
    tmp_path: Path,
) -> None:
    """The first attempt ends in step 1, without a checkpoint; the second one drops all of step 0."""

    def cut(what: str) -> None:
        if what == "update" and system.version == 1:
            raise OSError("cut")

    system = System({"rules": rules}, cut)
    with pytest.raises(OSError, match="cut"):
        asyncio.run(controller(tmp_path, system, checkpoint_every=9).train())
    folder = tmp_path / "trajectories"
    assert len(read_trajectories(folder)) == 4
    assert (folder / "dropped-000000.jsonl").read_text() == ""

    def judge(reply: str) -> Score:
        return dead_judge(reply) if reply.startswith("0-") else Score("judge", 1.0)

    made = controller(tmp_path, System({"judge": judge}), steps=2, max_invalid_share=1.0)
    outcome = asyncio.run(made.train())
    assert outcome.ledger.dropped == {"judge: http 503": 4}
    assert [row["step"] for row in read_trajectories(folder)] == [1] * 4
    lines = [json.loads(one) for one in (folder / "dropped-000000.jsonl").read_text().splitlines()]
    assert [line.pop("position") for line in lines] == [0, 1, 2, 3]
    assert len({line.pop("prompt_id") for line in lines}) == 4
    assert lines == [{"step": 0, "attempts": 3, "cause": "judge: http 503"}] * 4
    assert (folder / "dropped-000001.jsonl").read_text() == ""


def test_a_stop_writes_the_steps_checkpoint_once(tmp_path: Path) -> None:
    """A second one would have no reward, and so lose the best."""
    saves = []

    def stop_in_step_1(what: str) -> None:
        if what == "save":
            saves.append(system.version)
        if what == "push" and system.version == 1:
            made.request_stop()

    system = System({"rules": rules}, stop_in_step_1)
    made = controller(tmp_path, system, checkpoint_every=2)
    outcome = asyncio.run(made.train())
    assert (outcome.step, outcome.finished, saves) == (2, False, [2])
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert (newest.state[REWARD], newest.state[RUN]) == (pytest.approx(1.1), "r")
    assert best_checkpoint(tmp_path / "checkpoints") == newest.folder


def test_a_stop_between_two_checkpoints_writes_one(tmp_path: Path) -> None:
    def stop_in_step_0(what: str) -> None:
        if what == "push":
            made.request_stop()

    made = controller(tmp_path, System({"rules": rules}, stop_in_step_0), checkpoint_every=9)
    assert asyncio.run(made.train()).step == 1
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.step == 1
