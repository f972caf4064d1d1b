"""The two training jobs from the command line: files in, checkpoint and table out."""

import importlib.util
import sys
from pathlib import Path

import pytest

from repo_ray.negotiation.datasets import build_datasets

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = {"train_reward_model": "preferences", "train_judge": "verdicts"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    build_datasets(folder, seed=1, preference_rows=48)
    return folder


def run(monkeypatch, job, *arguments):
    spec = importlib.util.spec_from_file_location(f"job_{job}", JOBS / f"{job}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [job, *map(str, arguments)])
    return module.main()


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("train_reward_model", ["accuracy", "calibration error", "all"]),
        ("train_judge", ["over_promising", "AUC", "median"]),
    ],
)
def test_job_writes_a_checkpoint_and_prints_its_figures(
    monkeypatch, capsys, data, tiny_model, tmp_path, job, expected
):
    status = run(
        monkeypatch, job,
        "--data", data / f"{NAMES[job]}.parquet", "--out", tmp_path / "out",
        f"model.path={tiny_model}", "model.dtype=float32", "lora.rank=2", "lora.alpha=2",
        f"{job}.max_rows=8", "learner.threads=1",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert status == 0
    assert all(word in printed for word in expected)
    name = job.removeprefix("train_")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"{name}.json",
        f"{name}.safetensors",
    }


@pytest.mark.parametrize("job", NAMES)
@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("nonsense.key=1", "unknown key"),
        ("model.path=./nowhere", "no folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    monkeypatch, capsys, data, tmp_path, job, override, complaint
):
    rows = data / f"{NAMES[job]}.parquet"
    assert run(monkeypatch, job, "--data", rows, "--out", tmp_path / "out", override) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_reward_models_job_refuses_pairs_that_it_cannot_sample(
    monkeypatch, capsys, data, tmp_path
):
    arguments = ("--data", data / "preferences.parquet", "--out", tmp_path / "out")
    override = "train_reward_model.own_samples=0.3"
    assert run(monkeypatch, "train_reward_model", *arguments, override) == 2
    assert "own_samples needs a warm start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", NAMES)
def test_missing_data_is_named(monkeypatch, capsys, tmp_path, tiny_model, job):
    missing = tmp_path / "none.parquet"
    arguments = ("--data", missing, "--out", tmp_path / "out", f"model.path={tiny_model}")
    assert run(monkeypatch, job, *arguments) == 2
    assert "none.parquet" in capsys.readouterr().err
