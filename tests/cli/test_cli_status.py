"""What `repo-ray status` makes of a controller's report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from repo_ray.cli.status import view

POOL = {
    "kind": "judge",
    "wanted": 3,
    "ready": 2,
    "starting": 1,
    "queue": 7,
    "queue_s": 1.54,
    "in_flight": 8,
    "busy_share": 0.25,
    "calls": 90,
    "requeued": 1,
    "timeouts": 4,
    "restarts": 5,
    "members": {"judge-0": "ready", "judge-4": "ready", "judge-5": "starting"},
}


def status(**changes: Any) -> dict[str, Any]:
    return {
        "run": "exp",
        "folder": "/runs/exp",
        "time": 1000.0,
        "step": 2,
        "steps": 8,
        "step_age_s": 12.4,
        "phase": "update",
        "phases": {"collect": 30.0, "update": 10.0},
        "skipped_in_a_row": 0,
        "versions": {"learner": 2, "rollout-0": 2},
        "ledger": {
            "issued": 32,
            "consumed": 16,
            "dropped": {},
            "samples": 20,
            "scores": 60,
            "invalid": {},
        },
        "pools": {"judge": POOL},
        "metrics": {"reward/total": 0.31, "alarm/hacking": 0},
        **changes,
    }


def shown(state: dict[str, Any], now: float = 1001.0, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(view(state, now))
    return captured.get()


def test_it_says_where_the_run_is_and_whom_it_waits_for() -> None:
    text = shown(status())
    assert "exp step 2 of 8, 12 s since the last; waiting for the learner" in text
    assert "reward +0.31" in text
    assert "adapters: learner 2, rollout-0 2" in text
    assert "time: collect 75%, update 25%" in text
    assert "issued 32, consumed 16, dropped 0, in progress 16" in text
    assert "alarm" not in text
    assert "old" not in text


def test_a_pools_row_fits_a_narrow_terminal_and_names_what_is_not_ready() -> None:
    text = shown(status())
    row = next(line for line in text.splitlines() if line.startswith("judge"))
    expected = ["judge", "2/3", "7", "1.5", "s", "8", "75%", "90", "5", "4"]
    assert row.split()[: len(expected)] == expected
    assert "(starting)" in text


def test_what_failed_is_said_with_its_cause() -> None:
    ledger = {**status()["ledger"], "dropped": {"judge: timeout": 2}, "invalid": {"judge: x": 9}}
    text = shown(status(ledger=ledger, skipped_in_a_row=2))
    assert "dropped: judge: timeout x2" in text
    assert "invalid: judge: x x9" in text
    assert "in progress 14" in text
    assert "2 updates in a row were skipped" in text


def test_the_hacking_alarm_is_shown() -> None:
    assert "alarm: the reward rises" in shown(status(metrics={"alarm/hacking": 1}))


def test_a_report_that_stopped_coming_is_called_old() -> None:
    assert "this is 60 s old" in shown(status(), now=1060.0)


def test_names_with_brackets_are_no_markup() -> None:
    assert "/runs/[red]x" in shown(status(folder="/runs/[red]x"))


@pytest.mark.parametrize("command", [["status"], ["scale", "judge", "2"]])
def test_the_run_is_looked_for_before_ray_is_imported(command: list[str], tmp_path: Path) -> None:
    """Ray reads at its import how it authenticates; `attach` may set that."""
    code = """
import sys
import repo_ray.cli.scale, repo_ray.cli.status
from repo_ray.cli import main

def attach(run, address):
    raise SystemExit(3 if "ray" in sys.modules else 7)

repo_ray.cli.scale.attach = repo_ray.cli.status.attach = attach
main()
"""
    arguments = [*command, "--run", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], timeout=60, check=False)
    assert done.returncode == 7
