"""How often a run would ask its judge, on own and on built data; and the command that prints it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from repo_ray.cli import app
from repo_ray.config import Config
from repo_ray.config.load import validate
from repo_ray.pipeline.judge_cost import judge_calls
from repo_ray.rewards.judge.rubric import load_rubric

JUDGE = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """40 training prompts and 20 held out."""
    path = tmp_path / "prompts.jsonl"
    rows = [
        {
            "prompt_id": f"p{i}",
            "messages": [{"role": "user", "content": f"My kettle broke after {i} days."}],
            "split": "train" if i < 40 else "heldout",
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(prompts: Path | None, **sections: Any) -> Config:
    tree = {
        "run": {"batch_size": 16, "epochs": 2},
        "data": {"prompts": str(prompts)} if prompts else {"build_preferences": 60},
        "judge": JUDGE,
        "monitor": {"every": 2, "prompts": 10, "max_share": 10.0},
        "evaluation": {"enabled": False},
    }
    return validate(tree | sections, "test")


def calls(config: Config) -> dict[str, int]:
    return {part.name: part.calls for part in judge_calls(config, load_rubric(None))}


def test_training_asks_once_for_every_sample_and_checks_once_for_every_prompt(
    prompts: Path,
) -> None:
    """80 samples are five steps; checks come before, after steps 2 and 4, and at the end."""
    assert calls(settings(prompts)) == {"training": 80, "held-out checks": 4 * 10}


def test_steps_and_the_last_smaller_batch(prompts: Path) -> None:
    run = {"batch_size": 16, "epochs": 2, "steps": 2}
    assert calls(settings(prompts, run=run, monitor={"every": 0})) == {"training": 32}
    run = {"batch_size": 32, "epochs": 1}
    assert calls(settings(prompts, run=run, monitor={"every": 0})) == {"training": 40}


def test_too_few_held_out_prompts_are_no_check(prompts: Path) -> None:
    assert "held-out checks" not in calls(settings(prompts, monitor={"every": 2, "prompts": 5}))


def test_evaluation_asks_for_three_dialogues_of_every_set_and_column(prompts: Path) -> None:
    config = settings(prompts, monitor={"every": 0}, evaluation={"enabled": True})
    assert calls(config)["evaluation"] == 3 * 3, "base, warm start and REPO; a turn each"
    bare = settings(prompts, monitor={"every": 0}, evaluation={"enabled": True}, warm_start=None)
    assert calls(bare)["evaluation"] == 2 * 3


def test_a_dialogue_counts_with_all_its_turns() -> None:
    run = {"batch_size": 8, "steps": 2, "epochs": 1}
    single = settings(None, run=run, monitor={"every": 0})
    whole = settings(None, run=run, monitor={"every": 0}, dialogue={"max_turns": 5})
    assert calls(single) == {"training": 16}
    assert calls(whole) == {"training": 80}
    (short,) = judge_calls(single, load_rubric(None))
    (long,) = judge_calls(whole, load_rubric(None))
    assert long.each.input_tokens > short.each.input_tokens + 4 * 400, "it reads what was said"


def test_the_command_prints_calls_cost_time_and_limits_and_asks_nobody(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", _refuse)
    config = tmp_path / "c.yaml"
    judge = {
        **JUDGE,
        "requests_per_minute": 2,
        "tokens_per_minute": 1_000_000,
        "price_per_million_input_tokens": 1000.0,
        "price_per_million_output_tokens": 1000.0,
        "max_spend": 1.0,
    }
    config.write_text(
        json.dumps({"run": {"batch_size": 16}, "data": {"prompts": str(prompts)}, "judge": judge})
    )
    before = sorted(tmp_path.iterdir())
    overrides = ["monitor.every=0", "evaluation.enabled=false"]
    result = CliRunner().invoke(app, ["judge", "cost", "--config", str(config), *overrides])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for words in (
        "training",
        "80",
        "Not counted: retries",
        "judge.requests_per_minute 2: at least 40 min",
        "judge.max_spend 1.0: reached after about",
        "limit met first: judge.requests_per_minute",
    ):
        assert words in text, result.output
    assert sorted(tmp_path.iterdir()) == before


def test_a_judge_that_costs_nothing_is_refused(prompts: Path) -> None:
    result = CliRunner().invoke(app, ["judge", "cost", "judge.kind=local"])
    assert result.exit_code == 2


def _refuse(*arguments: Any) -> None:
    raise AssertionError("a connection was opened")
