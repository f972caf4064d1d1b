"""Opening a run folder again: what a resumed run may change, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_ray.config import Config, ConfigError, load_config
from repo_ray.config.load import validate
from repo_ray.pipeline.run_folder import open_run_folder


def settings(runs: Path, max_spend: float = 5.0, **run: Any) -> Config:
    judge = {
        "kind": "endpoint",
        "base_url": "http://x/v1",
        "model": "m",
        "price_per_million_input_tokens": 1.0,
        "price_per_million_output_tokens": 2.0,
        "max_spend": max_spend,
    }
    return validate({"run": {"name": "r", "dir": str(runs)} | run, "judge": judge}, "test")


def test_a_run_is_resumed_with_a_larger_limit_and_keeps_it(tmp_path: Path) -> None:
    root = open_run_folder(settings(tmp_path), resume=False).root
    open_run_folder(settings(tmp_path, max_spend=9.0), resume=True)
    assert load_config(root / "config.yaml").judge.max_spend == 9.0
    open_run_folder(settings(tmp_path, max_spend=9.0), resume=True)
    assert [path.name for path in root.iterdir()] == ["config.yaml"]


def test_nothing_else_may_change(tmp_path: Path) -> None:
    root = open_run_folder(settings(tmp_path), resume=False).root
    with pytest.raises(ConfigError, match=r"other settings \(run\.seed\)"):
        open_run_folder(settings(tmp_path, max_spend=9.0, seed=3), resume=True)
    assert load_config(root / "config.yaml").judge.max_spend == 5.0


def test_an_existing_run_is_not_opened_by_accident(tmp_path: Path) -> None:
    open_run_folder(settings(tmp_path), resume=False)
    with pytest.raises(ConfigError, match="--resume"):
        open_run_folder(settings(tmp_path), resume=False)
