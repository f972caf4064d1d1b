"""Scorers that have learned nothing are scorers all the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from repo_ray.benchmark.unlearned import write_judge, write_reward_model
from repo_ray.config.load import validate
from repo_ray.records import Message, Prompt
from repo_ray.rewards.judge.local import LocalJudge
from repo_ray.rewards.judge.rubric import load_rubric
from repo_ray.rewards.reward_model import RewardModelScorer

PROMPT = Prompt("p", (Message("user", "The room is 120 a night."),))
REPLIES = ["Could you do 100?", "I see. That is more than we can pay! Would 100 do?"]


def test_the_reward_model_tells_replies_apart(
    tiny_model: Path, tiny_tree: dict[str, Any], tmp_path: Path
) -> None:
    config = validate(tiny_tree, "test")
    folder = write_reward_model(config, tiny_model, tmp_path / "rm")
    first, second = RewardModelScorer(folder, config, 1).score([(PROMPT, r) for r in REPLIES])
    assert first.value is not None
    assert second.value is not None
    assert math.isfinite(first.value)
    assert first.value != second.value


def test_the_judge_judges_every_criterion_and_reads_no_reply_twice(
    tiny_model: Path, tiny_tree: dict[str, Any], tmp_path: Path
) -> None:
    config = validate(tiny_tree | {"judge": {"min_auc": 0.9}}, "test")
    folder = write_judge(config, tiny_model, tmp_path / "judge")
    rubric = load_rubric(None)
    judge = LocalJudge(folder, rubric, config, 1)
    scores = judge.score([(PROMPT, r) for r in REPLIES])
    assert not judge.disabled
    for score in scores:
        assert set(score.detail) == set(rubric.ids)
        assert not any(detail.reason for detail in score.detail.values())  # nothing left out
