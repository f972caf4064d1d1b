"""The reward-model actor and the one forward get the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_ray.benchmark.scoring import TEXTS, streamed_against_one_forward
from repo_ray.config.load import validate


@pytest.mark.timeout(200)
def test_both_sides_score_all_texts(tiny_model: Path, tiny_tree: dict[str, Any]) -> None:
    config = validate(tiny_tree, "test")
    with streamed_against_one_forward(config, tiny_model) as (stream, at_once):
        assert stream() == at_once() == TEXTS
