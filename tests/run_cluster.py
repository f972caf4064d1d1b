"""The Ray cluster of a run that goes on: where it exports metrics, where it keeps its logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ASK = """
import json, logging, sys
import ray
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
nodes = [node for node in ray.nodes() if node["Alive"]]
targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes]
context = ray.get_runtime_context()
logs = f"{context.get_temp_dir()}/{context.get_session_name()}/logs"
print(json.dumps({"targets": targets, "logs": logs}))
"""


@dataclass(frozen=True)
class RunCluster:
    #: `host:port` of every node's metrics, in Prometheus' text format.
    targets: list[str]
    logs: Path


def cluster_of(run_folder: Path) -> RunCluster:
    """Asked in a process of its own: Ray reads how it authenticates when it is imported."""
    address = json.loads((run_folder / "cluster.json").read_text())["address"]
    result = subprocess.run(
        [sys.executable, "-c", _ASK, address],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    answer = json.loads(result.stdout)
    return RunCluster(answer["targets"], Path(answer["logs"]))
