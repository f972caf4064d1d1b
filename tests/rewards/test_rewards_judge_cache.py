"""Scores of questions asked before: which count as the same, how many are kept, and on disk."""

from __future__ import annotations

from pathlib import Path

from repo_ray.config.rewards import JudgeConfig
from repo_ray.records import Message, Prompt, Score, ScoreDetail
from repo_ray.rewards.judge.cache import ScoreCache, append_scores, question_key, read_scores
from repo_ray.rewards.judge.consistency import judge_identity
from repo_ray.rewards.judge.prompt import judge_messages
from repo_ray.rewards.judge.rubric import Criterion, Rubric

PROMPT = Prompt("p", (Message("user", "Good morning."),), {"stage": "ask"})


def key(
    points: float = 10, model: str = "m", prompt: Prompt = PROMPT, reply: str = "Thank you."
) -> str:
    config = JudgeConfig(kind="endpoint", base_url="http://x/v1", model=model)
    rubric = Rubric((Criterion("kind", "The reply is kind.", points),), "Task.")
    return question_key(judge_identity(config, rubric), judge_messages(rubric, prompt, reply))


def test_the_same_question_to_the_same_judge_has_the_same_key() -> None:
    other_id = Prompt("q", PROMPT.messages, PROMPT.context)
    assert key() == key() == key(prompt=other_id)


def test_whatever_the_score_depends_on_makes_another_key() -> None:
    context = Prompt("p", PROMPT.messages, {"stage": "close"})
    turn = Prompt("p", (*PROMPT.messages, Message("assistant", "Hello.")), PROMPT.context)
    keys = {
        key(),
        key(points=11),
        key(model="n"),
        key(prompt=context),
        key(prompt=turn),
        key(reply="Thank you!"),
    }
    assert len(keys) == 6


def test_only_valid_scores_are_kept_and_those_used_last_stay() -> None:
    cache = ScoreCache(capacity=2)
    cache.put("bad", Score.invalid("judge", "timeout: 5 s"))
    assert cache.get("bad") is None
    for name in ("a", "b"):
        cache.put(name, Score("judge", 1.0))
    assert cache.get("a") is not None
    cache.put("c", Score("judge", 2.0))
    assert cache.get("b") is None
    assert cache.get("a") == Score("judge", 1.0)
    assert cache.get("c") == Score("judge", 2.0)


def test_scores_come_back_from_disk_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    assert read_scores(path) == []
    detail = {"kind": ScoreDetail(10.0, "thank you", 1.0)}
    scores = [(f"k{i}", Score("judge", float(i), detail)) for i in range(3)]
    append_scores(path, scores[:2])
    append_scores(path, [])
    append_scores(path, scores[2:])
    assert read_scores(path) == scores
    assert read_scores(path, newest=1) == scores[2:]
    whole = path.read_text()
    path.write_text(whole[:-10])
    assert read_scores(path) == scores[:2]
