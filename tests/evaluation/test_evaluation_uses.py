"""The log of uses of the evaluation sets."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from repo_ray.evaluation.uses import log_use, read_uses


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "online.parquet"
    path.write_bytes(b"dialogues")
    return path


def test_a_use_is_one_line_with_the_file_s_hash(tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    log_use(run, "online", "table of the README", column="repo", data_file=data)
    log_use(run, "development", "learning rate", column="repo", data_file=data)
    first, second = (
        json.loads(line) for line in (run / "evaluation" / "uses.jsonl").read_text().splitlines()
    )
    assert first["sha256"] == hashlib.sha256(b"dialogues").hexdigest()
    assert first["file"] == "online.parquet"
    assert (first["set"], first["column"], first["purpose"]) == (
        "online",
        "repo",
        "table of the README",
    )
    assert datetime.now(UTC) - datetime.fromisoformat(first["time"]) < timedelta(minutes=1)
    assert second["set"] == "development"
    assert read_uses(run) == [first, second]


def test_lines_of_concurrent_uses_stay_whole(tmp_path: Path, data: Path) -> None:
    def use(number: int) -> None:
        log_use(tmp_path, "badcases", f"{number}" * 500, column="c", data_file=data)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(40)))
    assert sorted(int(u["purpose"][0]) for u in read_uses(tmp_path)) == sorted(
        int(str(i)[0]) for i in range(40)
    )


def test_no_use_yet(tmp_path: Path) -> None:
    assert read_uses(tmp_path) == []


@pytest.mark.parametrize(
    ("set_name", "purpose", "message"),
    [("onlin", "x", "'onlin'.*online, badcases, development"), ("online", " ", "purpose")],
)
def test_bad_input_is_refused_and_not_logged(
    tmp_path: Path, data: Path, set_name: str, purpose: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        log_use(tmp_path, set_name, purpose, column="c", data_file=data)
    with pytest.raises(FileNotFoundError):
        log_use(tmp_path, "online", "x", column="c", data_file=tmp_path / "none.parquet")
    assert read_uses(tmp_path) == []


def test_a_broken_line_is_named(tmp_path: Path, data: Path) -> None:
    log_use(tmp_path, "online", "x", column="c", data_file=data)
    with (tmp_path / "evaluation" / "uses.jsonl").open("a") as file:
        file.write("{half\n")
    with pytest.raises(ValueError, match="line 2"):
        read_uses(tmp_path)
