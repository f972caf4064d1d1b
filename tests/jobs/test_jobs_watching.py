"""A run that goes on is watched: by a real Prometheus, in a terminal, in its logs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from run_cluster import RunCluster, cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
NAME = "watched"


@dataclass
class Run:
    folder: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def run(tiny_tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Goes on for longer than the tests, which stop it."""
    root = tmp_path_factory.mktemp("watched")
    endless = {"name": NAME, "dir": str(root), "steps": 5000, "epochs": 1000}
    tree = {**tiny_tree, "run": {**tiny_tree["run"], **endless}}
    config = root / "watched.yaml"
    config.write_text(yaml.safe_dump(tree))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "train_repo.py"), "--config", str(config)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            limit = time.monotonic() + 600
            while not (root / NAME / "checkpoints" / "step-000001").is_dir():
                assert process.poll() is None, (root / "output").read_text()
                assert time.monotonic() < limit, "no checkpoint within ten minutes"
                time.sleep(0.5)
            yield Run(root / NAME, process)
        finally:
            process.terminate()
            try:
                process.wait(120)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def cluster(run: Run) -> RunCluster:
    return cluster_of(run.folder)


@pytest.fixture(scope="module")
def prometheus(cluster: RunCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with the project's configuration, for this one cluster."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no `prometheus` on PATH (Debian and Ubuntu: apt install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "cluster" / "prometheus.yaml").read_text())
    targets = folder / "targets.json"
    targets.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": cluster.targets}]))
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(targets)]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                *(binary, f"--config.file={folder / 'prometheus.yaml'}"),
                *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            time.sleep(2)
            assert process.poll() is None, (folder / "output").read_text()
            yield f"http://{address}"
        finally:
            process.kill()


def test_every_query_of_the_dashboard_returns_data(prometheus: str) -> None:
    dashboard = json.loads((ROOT / "cluster" / "grafana" / "repo_ray.json").read_text())
    missing = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    began = time.time()
    while missing and time.time() < began + 180:
        time.sleep(10)
        missing = {k: q for k, q in missing.items() if not has_data(prometheus, q, began)}
    assert not missing


def has_data(prometheus: str, query: str, since: float) -> bool:
    """Whether the query has had any number since then."""
    chosen = query.replace("$run", NAME).replace("$__rate_interval", "1m")
    asked = urlencode({"query": chosen, "start": since, "end": time.time(), "step": 5})
    with urlopen(f"{prometheus}/api/v1/query_range?{asked}", timeout=10) as response:
        series = json.load(response)["data"]["result"]
    return any(value != "NaN" for each in series for _, value in each["values"])


def status(run: Run, *arguments: str) -> subprocess.Popen[str]:
    command = "from repo_ray.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, "status", "--run", str(run.folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_status_shows_the_run_once(run: Run) -> None:
    output, errors = status(run).communicate(timeout=120)
    assert re.search(rf"{NAME} step \d+ of 5000", output), errors
    assert re.search(r"adapters: learner \d+, rollout-0 \d+", output)
    for pool in ("rollout", "reward_model", "judge", "rules"):
        assert re.search(rf"^{pool} +1/1 ", output, re.MULTILINE)


def test_log_lines_say_run_role_and_step(run: Run, cluster: RunCluster) -> None:
    pattern = rf"INFO {NAME} driver step (\S+) repo_ray\.\S+: "
    assert re.search(pattern, (run.folder / "run.log").read_text())
    lines = "".join(path.read_text() for path in cluster.logs.glob("worker-*.err"))
    for role, words in (("rollout-0", "adapter version"), ("learner-0", "update of 4 samples")):
        assert re.search(rf"INFO {NAME} {role} step [1-9]\d* repo_ray\.\S+: {words}", lines)


def test_watching_ends_when_the_run_ends(run: Run) -> None:
    """The last test: it stops the run."""
    watcher = status(run, "--watch")
    time.sleep(20)
    assert watcher.poll() is None, watcher.communicate()
    run.process.terminate()
    assert run.process.wait(120) == 143
    output, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, errors
    assert "the run has ended" in output
