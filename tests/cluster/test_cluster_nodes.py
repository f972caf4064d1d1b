"""A real run on several Ray nodes: placement, a lost worker node, a lost head and `--resume`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from ray_nodes import ROLE, RayCluster, RayNode

from repo_ray.config.load import merge
from repo_ray.training.metrics import read_metrics

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

JOB = Path(__file__).parents[2] / "jobs" / "train_repo.py"
BATCH, STEPS = 4, 16
LIMIT_S = 300.0


def on(role: str) -> dict[str, Any]:
    return {"labels": {ROLE: role}}


#: Engine and judges on nodes of their own, the learner beside the driver on the head.
PLACED = {
    "run": {"steps": STEPS, "batch_size": BATCH, "checkpoint_every": 1, "placement_timeout_s": 60},
    "learner": on("driver"),
    "rollout": {"pool": on("rollout")},
    "judge": {"pool": on("judge")},
    "rules": {"pool": on("judge")},
    "reward_model": {"enabled": False},
    "warm_start": None,
    "evaluation": {"enabled": False},
    "monitor": {"every": 0},
}


@dataclass
class Job:
    """The main job as a process of its own, its output in a file."""

    folder: Path
    process: subprocess.Popen[bytes]
    output: Path
    seen: dict[str, set[str]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Updates that are in a checkpoint."""
        done = (self.folder / "checkpoints").glob("step-*")
        return max((int(path.name.removeprefix("step-")) for path in done), default=0)

    def wait(self, until: Callable[[], bool], nodes: list[RayNode]) -> None:
        """Waits, and notes which actors live on which node in the meantime."""
        limit = time.monotonic() + LIMIT_S
        while not until():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < limit, self.output.read_text()
            for node in nodes:
                self.seen.setdefault(node.role, set()).update(node.actors())
            time.sleep(0.1)

    def finish(self, status: int) -> str:
        self.process.wait(timeout=LIMIT_S)
        text = self.output.read_text()
        assert self.process.returncode == status, text
        return text


@pytest.fixture
def submit(tiny_tree: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts the job on a cluster; what is left of it is killed at the end."""
    jobs: list[Job] = []

    def start(cluster: RayCluster, changes: dict[str, Any], *arguments: str) -> Job:
        config = tmp_path / "placed.yaml"
        config.write_text(yaml.safe_dump(merge(merge(tiny_tree, PLACED), changes)))
        output = tmp_path / f"output-{len(jobs)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, str(JOB), "--config", str(config), f"run.dir={tmp_path}"),
                    *("--address", cluster.head.address, *arguments),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=cluster.environment,
            )
        jobs.append(Job(tmp_path / "tiny", process, output))
        return jobs[-1]

    yield start
    for job in jobs:
        job.process.kill()
        job.process.wait()


def recount(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Checks the summary against the trajectories; returns the metrics of all steps."""
    samples = json.loads((folder / "summary.json").read_text())["samples"]
    rows = sum(pq.read_metadata(p).num_rows for p in (folder / "trajectories").glob("*.parquet"))
    assert samples["issued"] == steps * BATCH
    assert samples["consumed"] == rows
    assert samples["issued"] == rows + sum(samples["dropped"].values())
    metrics = read_metrics(folder)
    assert [row["step"] for row in metrics] == list(range(1, steps + 1))
    return metrics


def test_a_run_outlives_a_lost_node_and_is_resumed_after_a_lost_head(
    submit: Callable[..., Job],
) -> None:
    with RayCluster() as cluster:
        engines, judges = cluster.add("rollout", "judge")
        job = submit(cluster, {})
        job.wait(lambda: job.steps >= 1, [cluster.head, engines, judges])
        assert job.seen == {
            "driver": {"ControlActor", "TrainerActor", "LearnerActor"},
            "rollout": {"RolloutActor"},
            "judge": {"LocalJudgeActor", "RulesActor"},
        }

        judges.kill()
        lost_at = job.steps
        (others,) = cluster.add("judge")
        job.wait(lambda: job.steps >= lost_at + 2, [others])
        assert others.actors() == {"LocalJudgeActor", "RulesActor"}

        cluster.head.kill()
        output = job.finish(1)
        stopped_at = job.steps
        assert lost_at + 2 <= stopped_at < STEPS
    # What it says is tested in tests/pipeline: Ray may end a driver that lost its own node without
    # leaving it time for a word.
    assert "Traceback" not in output

    with RayCluster() as cluster:
        cluster.add("rollout", "judge")
        submit(cluster, {}, "--resume").finish(0)
    metrics = recount(job.folder, STEPS)
    assert max(row["pools"]["judge"]["restarts"] for row in metrics[:stopped_at]) >= 1


def test_a_job_that_finds_no_place_is_refused_before_anything_starts(
    submit: Callable[..., Job],
) -> None:
    with RayCluster() as cluster:
        cluster.add("rollout")
        job = submit(cluster, {"run": {"placement_timeout_s": 2}})
        output = job.finish(2)
    assert "judge: 1 without a place; needs 0.1 CPU on a node with repo-ray/role=judge" in output
    assert "no node has these labels" in output
    assert "Traceback" not in output
    assert not (job.folder / "data").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_the_engines_of_the_nodes_that_are_left(
    submit: Callable[..., Job],
) -> None:
    """Nobody joins: the lost engine waits for a place, and the other does all the work."""
    with RayCluster() as cluster:
        first, second, _ = cluster.add("rollout", "rollout", "judge")
        pool = {"replicas": 2, "cpus": 2, "max_in_flight": 2, "start_timeout_s": 60}
        job = submit(cluster, {"rollout": {"pool": pool}})
        job.wait(lambda: job.steps >= 1, [])
        assert first.actors() == second.actors() == {"RolloutActor"}
        second.kill()
        job.finish(0)
    last = recount(job.folder, STEPS)[-1]["pools"]["rollout"]
    assert (last["ready"], last["wanted"]) == (1, 2)
    assert last["restarts"] >= 1
