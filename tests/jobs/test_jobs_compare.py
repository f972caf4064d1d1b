"""A comparison, whole and real, on a tiny random model: stopped, continued, recounted."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from repo_ray.models.adapters import parse_adapter
from repo_ray.training.metrics import read_metrics

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

JOB = Path(__file__).parents[2] / "jobs" / "compare.py"
BUDGET, BATCH, GROUP = 16, 8, 4


def start(config: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, str(JOB), "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@pytest.fixture(scope="module")
def root(tiny_tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison, which SIGTERM stopped once while GRPO's run was starting."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "base.yaml").write_text(yaml.safe_dump(tiny_tree))
    settings = {
        "config": "base.yaml",
        "name": "tiny",
        "dir": str(folder),
        "budget": BUDGET,
        "methods": ["dpo", "grpo"],
        "reference": "grpo",
        "overrides": {
            "run": {"batch_size": BATCH},
            "dpo": {"lr": 1e-3, "batch_size": 4, "max_eval_rows": 8},
            "train_reward_model": {"own_samples": 0.5},
        },
        "changes": {"grpo": {"algorithm": {"group_size": GROUP}}},
    }
    config = folder / "compare.yaml"
    config.write_text(yaml.safe_dump(settings))
    process = start(config)
    try:
        limit = time.monotonic() + 600
        while not (folder / "tiny" / "tiny-grpo-seed0" / "config.yaml").exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < limit, "GRPO did not start within ten minutes"
            time.sleep(0.05)
        time.sleep(1.0)  # into its own phases
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 143, output
    finally:
        process.kill()
    process = start(config)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "DPO, seed 0" not in output  # it was done
    assert "| GRPO |" in output
    return folder / "tiny"


def test_the_reward_model_is_trained_against_the_warm_starts_own_samples(root: Path) -> None:
    shared = root / "tiny-shared"
    pairs = pq.read_table(shared / "data" / "preferences_own_samples.parquet").to_pylist()
    own = [pair for pair in pairs if pair["defect"] == "own_sample"]
    written = [pair for pair in pairs if pair["defect"] != "own_sample"]
    assert 0 < len(own) <= round(0.5 * len(written))
    given = {(p["prompt_id"], p["chosen"]): p["rejected"] for p in written}
    assert all(given[p["prompt_id"], p["chosen"]] != p["rejected"] for p in own)
    card = json.loads((shared / "models" / "reward_model" / "reward_model.json").read_text())
    assert card["train_pairs"] == sum(pair["split"] == "train" for pair in pairs)
    heldout = [pair for pair in own if pair["split"] == "heldout"]
    assert card["heldout"]["pairs_by_defect"].get("own_sample", 0) == len(heldout)


def columns(root: Path) -> dict[str, Any]:
    content = json.loads((root / "comparison.json").read_text())
    return {c["key"]: c for c in content["columns"]}


def test_every_column_of_the_table_can_be_recounted_from_its_rows(root: Path) -> None:
    found = columns(root)
    assert list(found) == ["base", "warm_start", "annotation", "dpo", "grpo"]
    files = {"dpo": "tiny-dpo-seed0", "grpo": "tiny-grpo-seed0"}
    for key, column in found.items():
        file = root / "tiny-shared" / "evaluation" / f"evaluation-{files.get(key, key)}.parquet"
        rows = pq.read_table(file).to_pylist()
        assert len(rows) == 4
        rating = statistics.mean(row["rating"] for row in rows if row["set"] == "online")
        assert column["measures"]["dialogue_rating"]["value"] == pytest.approx(rating)
    assert found["annotation"]["measures"]["dialogue_rating"]["value"] > 3


def test_the_budget_is_what_each_method_saw(root: Path) -> None:
    found = columns(root)
    for key in ("dpo", "grpo"):
        (cost,) = found[key]["costs"]
        assert cost["seen"] == BUDGET
        assert cost["tokens_learned"] > 0
        assert cost["wall_s"] > 0
        assert cost["judge_calls"] == 0
    assert found["grpo"]["costs"][0]["reward_model_calls"] == BUDGET


def test_grpo_learns_from_groups_without_a_value_network(root: Path) -> None:
    run = root / "tiny-grpo-seed0"
    metrics = read_metrics(run)
    assert [row["step"] for row in metrics] == [1, 2]
    assert all("value_loss" not in row and not row["skipped"] for row in metrics)
    for file in sorted((run / "trajectories").glob("*.parquet")):
        rows = pq.read_table(file).to_pylist()
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["prompt_id"], []).append(row)
        assert [len(g) for g in groups.values()] == [GROUP] * (BATCH // GROUP)
        for group in groups.values():
            rewards = [row["reward"] for row in group]
            mean, std = statistics.mean(rewards), statistics.stdev(rewards)
            for row in group:
                assert row["reward"] == row["r_model"]
                for advantage in row["advantages"]:
                    assert math.isclose(advantage, (row["reward"] - mean) / std, rel_tol=1e-3)


def test_both_methods_moved_away_from_their_common_start(root: Path) -> None:
    def blob(folder: Path) -> bytes:
        return (folder / "adapter.safetensors").read_bytes()

    start = parse_adapter(blob(root / "tiny-shared" / "models" / "warm_start"))
    for name in ("dpo", "grpo"):
        trained = parse_adapter(blob(root / f"tiny-{name}-seed0" / "adapters" / "policy"))
        moved = [
            float((trained.modules[path][1] - b).abs().max())
            for path, (_, b) in start.modules.items()
        ]
        assert max(moved) > 0
