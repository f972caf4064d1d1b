"""The main job, whole and real, on a tiny random model: run, recount, recompute, stop, resume."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from repo_ray.pipeline.monitor import read_checks
from repo_ray.training.checkpoints import latest_checkpoint
from repo_ray.training.metrics import read_metrics
from repo_ray.training.telemetry import COLUMNS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

JOB = Path(__file__).parents[2] / "jobs" / "train_repo.py"
BATCH = 4


@pytest.fixture(scope="module")
def config(tiny_tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_tree))
    return path


#: Checks on held-out prompts before the first step, after the second and after the last.
MONITOR = "monitor={every: 2, prompts: 8, max_share: 2.0}"


def start(config: Path, runs: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, str(JOB), "--config", str(config), f"run.dir={runs}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str], status: int) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output
    return output


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder. It was stopped by SIGTERM after its first step, lost, and resumed
    from its storage."""
    runs = tmp_path_factory.mktemp("runs")
    folder = runs / "tiny"
    storage = f"run.storage=file://{runs}/stored"
    process = start(config, runs, MONITOR, storage)
    try:
        limit = time.monotonic() + 600
        while not (folder / "checkpoints" / "step-000001").is_dir():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < limit, "no checkpoint within ten minutes"
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output = finish(process, 143)
    finally:
        process.kill()
    assert "--resume continues" in output
    stopped = latest_checkpoint(folder / "checkpoints")
    assert stopped is not None
    assert stopped.step in (1, 2)
    assert not (folder / "summary.json").exists()
    shutil.rmtree(folder)  # the machine is lost; another one continues
    output = finish(start(config, runs, MONITOR, storage, "--resume"), 0)
    assert f"restored from file://{runs}/stored/tiny, {stopped.step} steps" in output
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def steps(run: Path) -> list[list[dict[str, Any]]]:
    paths = sorted((run / "trajectories").glob("*.parquet"))
    return [pq.read_table(path).to_pylist() for path in paths]


def test_the_summary_agrees_with_a_recount_of_the_trajectories(
    run: Path, summary: dict[str, Any], steps: list[list[dict[str, Any]]]
) -> None:
    ids = Counter(row["prompt_id"] for rows in steps for row in rows)
    assert len(steps) == 3
    assert max(ids.values()) == 1
    samples = summary["samples"]
    assert samples["consumed"] == sum(ids.values())
    assert samples["issued"] == 3 * BATCH
    lines = [p.read_text().splitlines() for p in (run / "trajectories").glob("dropped-*.jsonl")]
    assert samples["dropped"] == Counter(json.loads(one)["cause"] for step in lines for one in step)
    assert samples["issued"] == samples["consumed"] + sum(samples["dropped"].values())


def test_the_summary_names_the_judge_by_what_its_verdicts_depend_on(
    summary: dict[str, Any],
) -> None:
    assert summary["judge"]["kind"] == "local"
    for part in ("rubric", "prompt", "model"):
        assert len(summary["judge"][part]) == 64


def test_every_engine_ends_with_the_learners_last_adapter(summary: dict[str, Any]) -> None:
    adapters = summary["adapters"]
    assert adapters["engines"]
    for engine in adapters["engines"]:
        assert engine["digest"] == adapters["learner"]["digest"]
        assert engine["verified"]


def test_samples_carry_the_version_that_they_were_sampled_from(
    steps: list[list[dict[str, Any]]],
) -> None:
    for step, rows in enumerate(steps):
        assert {v for row in rows for v in row["versions"]} == {step}


def test_the_reward_is_the_papers_formula(steps: list[list[dict[str, Any]]]) -> None:
    for row in (row for rows in steps for row in rows):
        e = max(-100.0, min(100.0, row["e_judge"] + row["e_func"]))
        sign = (row["r_model"] > 0) - (row["r_model"] < 0)
        assert row["reward"] == pytest.approx(row["r_model"] * (1 + sign * e / 100))


def test_gae_and_losses_recompute_from_disk(run: Path, steps: list[list[dict[str, Any]]]) -> None:
    """Plain loops over the saved numbers; nothing of the package's own algorithms."""
    metrics = read_metrics(run)
    assert [m["step"] for m in metrics] == [1, 2, 3]
    for rows, measured in zip(steps, metrics, strict=True):
        raw: list[list[float]] = []
        for row in rows:
            values, length = row["old_values"], len(row["token_ids"])
            following, advantages = 0.0, [0.0] * length
            for t in reversed(range(length)):
                last = t == length - 1
                reward = row["reward"] if last else 0.0
                next_value = 0.0 if last else values[t + 1]
                following = reward + next_value - values[t] + 0.95 * following
                advantages[t] = following
            raw.append(advantages)
            assert row["returns"] == pytest.approx(
                [a + v for a, v in zip(advantages, values, strict=True)], abs=1e-4
            )
        flat = [a for advantages in raw for a in advantages]
        mean = sum(flat) / len(flat)
        deviation = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat))
        policy = value = 0.0
        for row, advantages in zip(rows, raw, strict=True):
            for t, advantage in enumerate(advantages):
                whitened = (advantage - mean) / deviation
                assert row["advantages"][t] == pytest.approx(whitened, abs=2e-3)
                ratio = math.exp(row["new_logprobs"][t] - row["behaviour_logprobs"][t])
                clipped = max(0.8, min(1.2, ratio))
                policy -= min(ratio * whitened, clipped * whitened) / len(flat)
                old, new, target = row["old_values"][t], row["new_values"][t], row["returns"][t]
                near = old + max(-0.2, min(0.2, new - old))
                value += 0.5 * max((new - target) ** 2, (near - target) ** 2) / len(flat)
        assert measured["policy_loss"] == pytest.approx(policy, abs=2e-3)
        assert measured["value_loss"] == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_sampler_and_learner_agree_on_the_log_probs(steps: list[list[dict[str, Any]]]) -> None:
    """fp32 on both sides, temperature 0.9: the first forward pass sees the policy that sampled."""
    for row in (row for rows in steps for row in rows):
        assert row["new_logprobs"] == pytest.approx(row["behaviour_logprobs"], abs=2e-3)


def test_held_out_prompts_are_checked_before_during_and_after(
    run: Path, steps: list[list[dict[str, Any]]]
) -> None:
    """The run was stopped and resumed in between: every check is there once, whole."""
    rows = read_checks(run)
    assert Counter(row["step"] for row in rows) == {0: 8, 2: 8, 3: 8}
    asked = {step: {r["dialogue_id"] for r in rows if r["step"] == step} for step in (0, 2, 3)}
    assert asked[0] == asked[2] == asked[3]
    assert not asked[0] & {row["prompt_id"] for batch in steps for row in batch}
    for row in rows:
        e = max(-100.0, min(100.0, row["e_judge"] + row["e_func"]))
        assert row["reward"] == pytest.approx(row["r_model"] + abs(row["r_model"]) * e / 100)
    metrics = read_metrics(run, 0)
    assert [m["step"] for m in metrics] == [0, 1, 2, 3]
    for step in (0, 2, 3):
        golds = [row["gold_score"] for row in rows if row["step"] == step]
        assert metrics[step]["heldout/gold"] == pytest.approx(sum(golds) / 8)
    assert "heldout/gold" not in metrics[1]
    assert metrics[3]["alarm/since"] in (0, 2)
    assert "Is it hacking?" in (run / "report.html").read_text()


def test_the_report_is_written_and_the_adapter_is_a_peft_folder(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (run / "adapters" / "policy" / "adapter_config.json").is_file()


def test_every_column_that_prometheus_is_promised_is_written(run: Path) -> None:
    assert set(COLUMNS) <= {column for row in read_metrics(run, 0) for column in row}


def test_an_existing_run_is_not_overwritten(config: Path, run: Path) -> None:
    output = finish(start(config, run.parent), 2)
    assert "--resume" in output


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.stepz=3", "run.stepz: unknown key"),
        ("rules.path=/no/such/rules.yaml", "/no/such/rules.yaml"),
        ("data.prompts=/no/such/prompts.parquet", "/no/such/prompts.parquet"),
        (
            "judge={kind: endpoint, base_url: 'http://127.0.0.1:9/v1', model: m, max_retries: 0}",
            "127.0.0.1:9",
        ),
    ],
)
def test_bad_input_gets_one_clear_error_before_anything_starts(
    config: Path, tmp_path: Path, override: str, expected: str
) -> None:
    output = finish(start(config, tmp_path, override), 2)
    assert expected in output
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def refund_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chat data of another task, as somebody else would bring it: JSONL, no facts, no splits."""
    folder = tmp_path_factory.mktemp("refunds")
    goods = ["kettle", "lamp", "chair", "radio", "jacket", "tent", "clock", "mixer"]
    prompts, pairs = [], []
    for i, good in enumerate(goods):
        messages = [
            {"role": "system", "content": "You work at a refund desk. Be brief and kind."},
            {"role": "user", "content": f"My {good} broke after {i + 2} days."},
        ]
        prompts.append({"prompt_id": f"r{i}", "messages": messages})
        chosen = f"I am sorry about the {good}. We refund it today."
        pairs.append({**prompts[-1], "chosen": chosen, "rejected": "Not my problem."})
    for name, rows in (("prompts", prompts), ("preferences", pairs)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


OFF = ("judge.enabled=false", "rules.enabled=false", "warm_start=null")
OWN = (*OFF, "run.name=own", "run.steps=1")


@pytest.mark.slow
def test_another_tasks_data_trains_without_code_changes(
    config: Path, refund_desk: Path, tmp_path: Path
) -> None:
    data = [f"data.{k}={refund_desk / k}.jsonl" for k in ("prompts", "preferences")]
    finish(start(config, tmp_path, *OWN, *data), 0)
    summary = json.loads((tmp_path / "own" / "summary.json").read_text())
    assert summary["samples"]["consumed"] == BATCH
    assert set(summary["measures"]) == {"base", "repo"}
    assert summary["stages"]["reward_model"]["train_pairs"] == 7  # a tenth, one row, is held out
    rows = pq.read_table(tmp_path / "own" / "trajectories" / "step-000000.parquet").to_pylist()
    assert {row["messages"][0]["content"] for row in rows} == {
        "You work at a refund desk. Be brief and kind."
    }


def test_own_prompts_without_what_the_rewards_need_are_refused(
    config: Path, refund_desk: Path, tmp_path: Path
) -> None:
    output = finish(start(config, tmp_path, f"data.prompts={refund_desk / 'prompts.jsonl'}"), 2)
    for key in ("data.preferences is missing", "data.verdicts is missing", "data.sft is missing"):
        assert key in output
    assert not list(tmp_path.iterdir())


def test_the_storage_holds_the_run_and_its_newest_checkpoint(run: Path) -> None:
    stored = run.parent / "stored" / "tiny"
    for name in ("summary.json", "report.html", "metrics.jsonl", "adapters/policy"):
        files = [run / name] if (run / name).is_file() else list((run / name).iterdir())
        for file in files:
            assert (stored / file.relative_to(run)).read_bytes() == file.read_bytes()
    newest = latest_checkpoint(stored / "checkpoints")
    assert newest is not None
    assert newest.step == 3
