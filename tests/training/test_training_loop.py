"""The loop's ends: what stops a run says why, and a stop loses nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from loop_cases import System, controller

from repo_ray.records import Score
from repo_ray.training.loop import RunError


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


def test_a_stop_for_empty_batches_says_why_prompts_were_dropped(tmp_path: Path) -> None:
    system = System({"judge": dead_judge, "rules": rules})
    made = controller(tmp_path, system, max_invalid_share=1.0, max_skipped_updates=2)
    with pytest.raises(
        RunError,
        match=r"2 updates in a row were skipped, the last because of: empty batch: every prompt "
        r"was dropped \(judge: http 503 x4\)",
    ):
        asyncio.run(made.train())
