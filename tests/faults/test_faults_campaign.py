"""Six faults in three minutes; fifty, seeded and unattended, by `make faults`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from campaign import TARGETS, Fault, campaign, draw_faults, recount, report

pytestmark = pytest.mark.engine

#: Those after which nothing has to wait for a time limit, and one resume.
SIX = [
    Fault("engine", "kill", 0.3),
    Fault("rules", "kill", 0.1),
    Fault("judge", "kill", 0.7),
    Fault("reward_model", "kill", 0.2),
    Fault("judge_node", "kill", 0.5),
    Fault("driver", "kill", 0.4),
]


def suffer(folder: Path, tree: dict[str, Any], faults: list[Fault]) -> str:
    with campaign(folder, tree) as run:
        run.started()
        for fault in faults:
            outcome = run.inject(fault)
            print(outcome, flush=True)
        run.finish()
        return report(run.outcomes, recount(run.run))


def test_faults_are_drawn_by_seed_and_leave_nobody_out() -> None:
    faults = draw_faults(50, 1)
    assert faults == draw_faults(50, 1) != draw_faults(50, 2)
    assert len(faults) == 50
    assert {(f.target, f.action) for f in faults} == {
        (target, action) for target in TARGETS for action in ("kill", "freeze")
    }


@pytest.mark.timeout(1200)
def test_a_run_gets_over_six_faults_with_its_books_in_order(
    tiny_tree: dict[str, Any], tmp_path: Path
) -> None:
    assert "6 faults" in suffer(tmp_path, tiny_tree, SIX)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_a_run_gets_over_many_faults(tiny_tree: dict[str, Any], tmp_path: Path) -> None:
    """REPO_RAY_FAULTS, REPO_RAY_FAULTS_SEED and REPO_RAY_FAULTS_REPORT set number, seed, report."""
    count = int(os.environ.get("REPO_RAY_FAULTS", "50"))
    seed = int(os.environ.get("REPO_RAY_FAULTS_SEED", "0"))
    text = suffer(tmp_path, tiny_tree, draw_faults(count, seed))
    print(text)
    if path := os.environ.get("REPO_RAY_FAULTS_REPORT"):
        Path(path).write_text(text, encoding="utf-8")
