"""Data sets behind URLs: fetched once, and named where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo_ray.config import ConfigError
from repo_ray.config.load import validate
from repo_ray.pipeline.inputs import local_inputs
from repo_ray.pipeline.run_folder import RunFolder


def test_urls_become_files_of_the_run_and_paths_stay(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("1")
    data = {"prompts": f"file://{tmp_path}/rows.jsonl", "sft": "mine/sft.parquet"}
    folder = RunFolder(tmp_path / "run")
    found = local_inputs(validate({"data": data}, "test"), folder)
    assert found["sft"] == Path("mine/sft.parquet")
    assert found["prompts"].is_relative_to(folder.inputs)
    assert found["prompts"].suffix == ".jsonl"
    assert found["prompts"].read_text() == "1"
    assert set(found) == {"prompts", "sft"}


def test_a_started_run_keeps_its_copy_and_another_url_is_fetched(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(name)
    folder = RunFolder(tmp_path / "run")

    def prompts(name: str) -> str:
        config = validate({"data": {"prompts": f"file://{tmp_path}/{name}"}}, "test")
        return local_inputs(config, folder)["prompts"].read_text()

    assert prompts("a.jsonl") == "a.jsonl"
    (tmp_path / "a.jsonl").write_text("corrected")
    assert prompts("a.jsonl") == "corrected"  # not started: nothing depends on it yet
    folder.config.write_text("run: {}")
    (tmp_path / "a.jsonl").unlink()
    assert prompts("a.jsonl") == "corrected"
    assert prompts("b.jsonl") == "b.jsonl"


def test_a_url_that_cannot_be_read_is_named_with_its_key(tmp_path: Path) -> None:
    config = validate({"data": {"sft": f"file://{tmp_path}/absent.parquet"}}, "test")
    with pytest.raises(ConfigError, match=r"data\.sft: file://.*absent\.parquet: could not be"):
        local_inputs(config, RunFolder(tmp_path / "run"))
