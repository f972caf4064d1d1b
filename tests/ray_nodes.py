"""Several Ray nodes on one machine, each with its own raylet, address, labels and temporary folder.

The addresses are of the loopback network. A node is killed as if its machine were switched off:
SIGKILL to every process that belongs to it, and to none that does not.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROLE = "repo-ray/role"
START_LIMIT_S = 120.0
_TITLE = re.compile(r"^ray::(\w+Actor)\b")  # ours; not Ray's agents, nor an idle worker
_hosts = itertools.count(2)


class RayNode:
    """One `ray start --block` and everything below it."""

    def __init__(self, role: str, environment: dict[str, str], head: RayNode | None) -> None:
        self.role = role
        self.host = f"127.0.0.{next(_hosts)}"
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets: short paths
        self._output = self._folder / "start.log"
        if head is None:
            place = ["--head", "--port=0", "--include-dashboard=false", "--no-monitor"]
            place.append(f"--ray-client-server-port={_free_port()}")
        else:
            place = [f"--address={head.address}"]
        options = [
            f"--node-ip-address={self.host}",
            f"--labels={ROLE}={role}",
            "--num-cpus=2",
            f"--temp-dir={self._folder}",
            "--object-store-memory=100000000",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            "--disable-usage-stats",
        ]
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def address(self) -> str:
        """The head's address, where workers and drivers join. Waits until the node is up."""
        file = self._folder / "ray_current_cluster"
        limit = time.monotonic() + START_LIMIT_S
        while not (file.exists() and file.read_text()):
            assert self._process.poll() is None, self._output.read_text()
            assert time.monotonic() < limit, f"{self.role}: not up: {self._output.read_text()}"
            time.sleep(0.1)
        return file.read_text()

    def actors(self) -> set[str]:
        """Class names of the actors that live on this node now."""
        found = set()
        for process in self.processes():
            try:
                title = _TITLE.match(" ".join(process.cmdline()))
            except psutil.Error:  # it has just ended
                continue
            if title:
                found.add(title.group(1))
        return found

    def named(self, title: str) -> list[psutil.Process]:
        """This node's processes with `title` in their command, such as `ray::RulesActor`."""
        found = []
        for process in self.processes():
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self) -> None:
        doomed = self.processes()
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait(timeout=20)
        limit = time.monotonic() + 20
        while any(map(_lives, doomed)):
            assert time.monotonic() < limit, f"{self.role}: processes survive SIGKILL"
            time.sleep(0.05)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class RayCluster:
    """A head and the nodes that joined it. Leaves nothing behind."""

    def __init__(self) -> None:
        #: For the nodes, and for whoever connects to them.
        self.environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # A dead node is noticed in seconds, a busy one has time to answer.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "10000",
            "RAY_health_check_failure_threshold": "3",
        }
        self.head = RayNode("driver", self.environment, None)
        self._nodes = [self.head]

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes:
            node.remove()

    def add(self, *roles: str) -> list[RayNode]:
        """Nodes that start side by side; returns when all have joined."""
        assert self.head.address
        nodes = [RayNode(role, self.environment, self.head) for role in roles]
        self._nodes += nodes
        for node in nodes:
            assert node.address == self.head.address
        return nodes


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: who reaps an orphan is up to the machine."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
