"""The main job on whole dialogues, real engine and learner, stopped once and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from test_jobs_train_repo import finish, start

from repo_ray.records import turn_rows

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

BATCH, TURNS, LENGTH = 4, 3, 1024


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rules alone give the reward; the model has room for longer contexts."""
    folder = tmp_path_factory.mktemp("dialogues")
    model = folder / "model"
    shutil.copytree(tiny_model, model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": LENGTH}))
    pool = {"cpus": 0.1, "threads": 1}
    tree = {
        "run": {"name": "talk", "steps": 3, "batch_size": BATCH, "checkpoint_every": 1},
        "dialogue": {"max_turns": TURNS, "reward": "turn"},
        "model": {
            "path": str(model),
            "dtype": "float32",
            "attention": "eager",
            "max_prompt_tokens": 480,
        },
        "lora": {"rank": 4, "alpha": 8},
        "data": {"build_preferences": 60},
        "sampling": {"max_new_tokens": 12, "temperature": 0.9},
        "rollout": {
            "max_model_len": LENGTH,
            "max_num_seqs": 16,
            "canary_tolerance": 0.01,
            "pool": {**pool, "max_in_flight": 16},
        },
        "reward_model": {"enabled": False},
        "judge": {"enabled": False},
        "rules": {"pool": {**pool, "max_in_flight": 4}},
        "algorithm": {"whiten_advantages": False, "gamma": 0.9, "gae_lambda": 0.8},
        "learner": {"cpus": 0.1, "threads": 1, "policy_lr": 1e-3, "value_lr": 1e-3},
        "warm_start": None,
        "evaluation": {"enabled": False},
    }
    path = folder / "talk.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder. It was stopped by SIGTERM after its first step, then resumed."""
    runs = tmp_path_factory.mktemp("runs")
    folder = runs / "talk"
    process = start(config, runs)
    try:
        limit = time.monotonic() + 600
        while not (folder / "checkpoints" / "step-000001").is_dir():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < limit, "no checkpoint within ten minutes"
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        finish(process, 143)
    finally:
        process.kill()
    finish(start(config, runs, "--resume"), 0)
    return folder


@pytest.fixture(scope="module")
def rows(run: Path) -> list[dict[str, Any]]:
    paths = sorted((run / "trajectories").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_every_episode_is_issued_once_and_accounted_for(
    run: Path, rows: list[dict[str, Any]]
) -> None:
    samples = json.loads((run / "summary.json").read_text())["samples"]
    assert samples["issued"] == 3 * BATCH
    assert samples["issued"] == samples["consumed"] + sum(samples["dropped"].values())
    assert samples["consumed"] == len(rows)
    assert max(Counter(row["prompt_id"] for row in rows).values()) == 1
    assert samples["sampled"] >= sum(len(turn_rows(row)) for row in rows)


def test_dialogues_have_several_turns_of_their_step_s_policy(rows: list[dict[str, Any]]) -> None:
    turns = [len(turn_rows(row)) for row in rows]
    assert max(turns) > 1
    assert max(turns) <= TURNS
    for row in rows:
        assert set(row["versions"]) == {row["step"]}
        assert len(row["messages"]) == 2 * len(turn_rows(row))


def test_the_learner_sees_before_each_token_what_the_engine_saw(
    rows: list[dict[str, Any]],
) -> None:
    """fp32 on both sides: one changed or missing token between turns would show in the next."""
    for row in rows:
        sampled = [
            (new, behaviour)
            for new, behaviour, counted in zip(
                row["new_logprobs"], row["behaviour_logprobs"], row["loss_mask"], strict=True
            )
            if counted
        ]
        new, behaviour = zip(*sampled, strict=True)
        assert new == pytest.approx(behaviour, abs=2e-3)


def test_advantages_recompute_from_disk(rows: list[dict[str, Any]]) -> None:
    """A plain loop over the sampled tokens with each turn's reward at its end."""
    for row in rows:
        placed = {pair["token"]: pair["reward"] for pair in row["token_rewards"]}
        turns = json.loads(row["turns"])
        assert placed == {t["last_token"]: t["reward"]["total"] for t in turns}
        value_after, running = 0.0, 0.0
        for t in reversed(range(len(row["token_ids"]))):
            if not row["loss_mask"][t]:
                assert t not in placed
                assert row["advantages"][t] == 0
                continue
            value = row["old_values"][t]
            delta = placed.get(t, 0.0) + 0.9 * value_after - value
            running = delta + 0.9 * 0.8 * running
            value_after = value
            assert row["advantages"][t] == pytest.approx(running, abs=1e-4)
            assert row["returns"][t] == pytest.approx(running + value, abs=1e-4)
