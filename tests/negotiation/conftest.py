from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from repo_ray.negotiation.datasets import build_datasets

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A build of 2,000 preference rows, and its counts."""
    folder = tmp_path_factory.mktemp("negotiation")
    return folder, build_datasets(folder, seed=3, preference_rows=2000)


@pytest.fixture(scope="session")
def data(built: tuple[Path, dict[str, int]]) -> dict[str, Rows]:
    """All rows of that build by data set."""
    folder, counts = built
    return {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in counts}
