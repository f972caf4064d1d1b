"""Schedule, accounting and checkpoints: the pure parts around the loop."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.config import ConfigError
from repo_ray.config.settings import RunConfig
from repo_ray.records import Prompt, Score
from repo_ray.training.accounting import Ledger
from repo_ray.training.checkpoints import (
    REWARD,
    RUN,
    CheckpointError,
    best_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from repo_ray.training.metrics import MetricsLog, read_metrics
from repo_ray.training.schedule import Schedule


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", ()) for i in range(count)]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 17), st.integers(0, 5))
def test_every_prompt_is_issued_once_per_epoch(
    count: int, epochs: int, batch: int, seed: int
) -> None:
    schedule = Schedule.of(prompts(count), RunConfig(epochs=epochs, batch_size=batch, seed=seed), 1)
    ids = [p.prompt_id for step in range(schedule.steps) for p in schedule.batch(step)]
    assert Counter(ids) == {f"p{i}": epochs for i in range(count)}
    for epoch in range(epochs):
        assert len(set(ids[epoch * count : (epoch + 1) * count])) == count


def test_the_papers_rows_give_104_steps() -> None:
    assert Schedule.of(prompts(6632), RunConfig(epochs=2, batch_size=128), 1).steps == 104


def test_the_order_depends_on_the_seed_and_the_epoch() -> None:
    def order(seed: int) -> list[str]:
        schedule = Schedule.of(prompts(20), RunConfig(epochs=2, batch_size=20, seed=seed), 1)
        return [p.prompt_id for step in range(2) for p in schedule.batch(step)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:20] != order(1)[20:]


def test_more_steps_than_prompts_give_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"give 2 steps: raise run\.epochs"):
        Schedule.of(prompts(4), RunConfig(epochs=1, batch_size=2, steps=3), 1)


def test_the_ledger_counts_invalid_scores_by_source_and_cause() -> None:
    ledger = Ledger(issued=3, consumed=2)
    ledger.dropped["timeout"] += 1
    ledger.count_score(Score("judge", 1.0))
    ledger.count_score(Score.invalid("judge", "timeout: no answer in 5 s"))
    assert ledger.balanced
    assert ledger.invalid == {"judge: timeout": 1}
    assert ledger.most_invalid == ("judge", 0.5)
    assert Ledger.from_state(json.loads(json.dumps(ledger.state()))) == ledger


def test_a_source_that_is_down_is_not_hidden_by_those_that_answer() -> None:
    ledger = Ledger()
    assert ledger.most_invalid == ("", 0.0)
    for number in range(4):
        ledger.count_score(Score("reward_model", 1.0))
        ledger.count_score(Score.invalid("judge", "http 503: away"))
        ledger.count_score(
            Score("rules", 0.0) if number else Score.invalid("rules", "raised: rule x")
        )
    assert ledger.most_invalid == ("judge", 1.0)
    ledger.add(ledger)
    assert ledger.scores_by_source == {"reward_model": 8, "judge": 8, "rules": 8}


def test_the_ledger_of_an_earlier_versions_checkpoint_is_read() -> None:
    old = {"issued": 8, "consumed": 8, "dropped": {}, "samples": 9}
    ledger = Ledger.from_state({**old, "scores": 27, "invalid": {"judge: timeout": 1}})
    assert (ledger.scores, ledger.most_invalid) == (27, ("", 0.0))
    ledger.add(Ledger(scores=3, scores_by_source=Counter(judge=3)))
    assert ledger.state()["scores"] == 30


def write(text: str):  # type: ignore[no-untyped-def]
    def writer(folder: Path) -> None:
        (folder / "learner").mkdir()
        (folder / "learner" / "weights").write_text(text)

    return writer


def test_the_newest_checkpoint_is_found_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {"step": step}, write(str(step)), keep=2)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert (latest.step, latest.state) == (10, {"step": 10})
    assert (latest.folder / "learner" / "weights").read_text() == "10"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000010"]


def test_the_checkpoint_with_the_highest_reward_stays(tmp_path: Path) -> None:
    for step, reward in enumerate((0.2, 0.9, None, 0.9, 0.5, 0.1), start=1):
        save_checkpoint(tmp_path, step, {REWARD: reward}, write(str(step)), keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004", "step-000006"]
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert best.name == "step-000004"
    assert best_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_never_the_highest(tmp_path: Path, reward: float) -> None:
    for step, value in enumerate((reward, 0.2, 0.1), start=1):
        save_checkpoint(tmp_path, step, {REWARD: value}, write(str(step)), keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, write("of an earlier version"), keep=9)
    assert latest_checkpoint(tmp_path, "mine") is not None
    save_checkpoint(tmp_path, 2, {RUN: "mine"}, write("mine"), keep=9)
    assert latest_checkpoint(tmp_path, "mine") is not None
    save_checkpoint(tmp_path, 3, {RUN: "other"}, write("foreign"), keep=9)
    with pytest.raises(
        CheckpointError, match=r"step-000003: is of the run 'other', not of 'mine'.*Move it away"
    ):
        latest_checkpoint(tmp_path, "mine")


def test_a_full_disk_on_resume_costs_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.step(step, {"x": step})
    log.close()
    write_text = Path.write_text

    def full(path: Path, text: str, encoding: str) -> int:
        write_text(path, text[: len(text) // 2], encoding)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            MetricsLog(tmp_path, 2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    MetricsLog(tmp_path, 2).close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, write("old"), keep=1)

    def full_disk(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, {}, full_disk, keep=1)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


@pytest.mark.parametrize("damage", ["change", "remove", "format", "truncate", "tamper"])
def test_a_damaged_checkpoint_is_refused_with_the_file(tmp_path: Path, damage: str) -> None:
    folder = save_checkpoint(tmp_path, 1, {}, write("weights"), keep=1).folder
    manifest, weights = folder / "manifest.json", folder / "learner" / "weights"
    if damage == "change":
        weights.write_text("weighty")
    elif damage == "remove":
        weights.unlink()
    elif damage == "format":
        manifest.write_text(manifest.read_text().replace("checkpoint/1", "checkpoint/9"))
    elif damage == "tamper":
        manifest.write_text(manifest.read_text().replace('"step": 1', '"step": 2'))
    else:
        manifest.write_text(manifest.read_text()[:40])
    expected = {
        "change": "weights: its SHA-256",
        "remove": "weights: listed",
        "format": "format is 'repo_ray.checkpoint/9'",
        "truncate": "not a readable",
        "tamper": "not those that were written",
    }[damage]
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(folder)
