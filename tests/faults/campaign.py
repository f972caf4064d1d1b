"""Kills and freezes parts of a real run, one after the other, and recounts its books at the end.

The run is the main job on a cluster of several Ray nodes (`ray_nodes`). A fault is over when two
more updates are in a checkpoint; where the job ended, it was submitted once more with `--resume`,
as an operator would. What was frozen stays so until then.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import pyarrow.parquet as pq
import yaml
from ray_nodes import ROLE, RayCluster, RayNode

from repo_ray.config.load import load_config, merge
from repo_ray.data.reader import read_prompts
from repo_ray.training.metrics import read_metrics
from repo_ray.training.schedule import Schedule

JOB = Path(__file__).parents[2] / "jobs" / "train_repo.py"
BATCH = 4
#: Seconds for a run to come up, and for one fault to be over, a resume included.
LIMIT_S = 420.0
#: Updates in a checkpoint after which a fault is over.
RECOVERED = 2
#: Within so many seconds after the previous one, at random, comes the next fault.
LONGEST_DELAY_S = 4.0

Target = Literal[
    "rollout",
    "engine",
    "reward_model",
    "judge",
    "rules",
    "rule_process",
    "learner",
    "driver",
    "judge_node",
    "rollout_node",
]
Action = Literal["kill", "freeze"]

#: Node role and process title of each target; the driver is no process of a node.
PLACES: dict[Target, tuple[str, str]] = {
    "rollout": ("rollout", "ray::RolloutActor"),
    "engine": ("rollout", "VLLM::EngineCore"),
    "reward_model": ("judge", "ray::RewardModelActor"),
    "judge": ("judge", "ray::LocalJudgeActor"),
    "rules": ("judge", "ray::RulesActor"),
    "rule_process": ("judge", "sandbox_child"),
    "learner": ("driver", "ray::LearnerActor"),
    "judge_node": ("judge", ""),
    "rollout_node": ("rollout", ""),
}
TARGETS: tuple[Target, ...] = (*PLACES, "driver")


def on(role: str) -> dict[str, Any]:
    return {"labels": {ROLE: role}}


#: Short limits: what is frozen must be noticed in the time of a test. The run never ends itself.
SETTINGS: dict[str, Any] = {
    "run": {
        "steps": 5000,
        "epochs": 1000,
        "batch_size": BATCH,
        "checkpoint_every": 1,
        "placement_timeout_s": 60,
        "silence_s": 30,
    },
    "learner": {**on("driver"), "timeout_s": 60, "world_size": 2},
    "rollout": {"pool": {**on("rollout"), "timeout_s": 60, "max_restarts": 1000}},
    "reward_model": {"pool": {**on("judge"), "timeout_s": 20, "max_restarts": 1000}},
    "judge": {"pool": {**on("judge"), "timeout_s": 20, "max_restarts": 1000}},
    "rules": {"pool": {**on("judge"), "timeout_s": 20, "max_restarts": 1000}},
    "evaluation": {"enabled": False},
    "monitor": {"every": 0},
}


@dataclass(frozen=True)
class Fault:
    """What happens to whom, `delay_s` after the run has recovered from the one before."""

    target: Target
    action: Action
    delay_s: float


@dataclass
class Outcome:
    """How a fault ended: by itself or with a resume, and after how many seconds."""

    fault: Fault
    at_step: int
    resumed: bool
    seconds: float


def draw_faults(count: int, seed: int) -> list[Fault]:
    """Every target with every action before any of them again, in random order."""
    rng = random.Random(seed)
    kinds = [(target, action) for target in TARGETS for action in ("kill", "freeze")]
    faults: list[Fault] = []
    while len(faults) < count:
        for target, action in rng.sample(kinds, len(kinds)):
            faults.append(Fault(target, action, rng.uniform(0, LONGEST_DELAY_S)))  # type: ignore[arg-type]
    return faults[:count]


@dataclass
class Campaign:
    """One run and what is done to it."""

    cluster: RayCluster
    folder: Path
    tree: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._config = self.folder / "faults.yaml"
        self._config.write_text(yaml.safe_dump(merge(self.tree, SETTINGS)))
        self._outputs = (self.folder / f"output-{n}" for n in itertools.count())
        self._nodes: dict[str, RayNode] = {"driver": self.cluster.head}
        for role, node in zip(
            ("rollout", "judge"), self.cluster.add("rollout", "judge"), strict=True
        ):
            self._nodes[role] = node
        self._submit()

    @property
    def run(self) -> Path:
        return self.folder / str(self.tree["run"]["name"])

    @property
    def step(self) -> int:
        """Updates that are in a checkpoint."""
        done = (self.run / "checkpoints").glob("step-*")
        return max((int(path.name.removeprefix("step-")) for path in done), default=0)

    def inject(self, fault: Fault) -> Outcome:
        """Carries out one fault and waits until the run has got over it."""
        time.sleep(fault.delay_s)
        victims = self._victims(fault)
        at_step, began = self.step, time.monotonic()
        number = signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP
        for process in victims:
            _signal(process, number)
        if fault.target.endswith("_node"):
            role, _ = PLACES[fault.target]
            if fault.action == "kill":
                self._nodes[role].kill()
            (self._nodes[role],) = self.cluster.add(role)
        resumed = self._wait(at_step + RECOVERED, f"{fault} at step {at_step}")
        outcome = Outcome(fault, at_step, resumed, time.monotonic() - began)
        if fault.action == "freeze":
            for process in victims:
                _signal(process, signal.SIGKILL)
        self.outcomes.append(outcome)
        return outcome

    def started(self) -> None:
        """Waits until the first update is in a checkpoint."""
        assert not self._wait(1, "the start")

    def finish(self) -> None:
        """Stops the run as `ray job stop` does."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=LIMIT_S)
        assert self._process.returncode == 143, self._output.read_text()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _submit(self, *arguments: str) -> None:
        self._output = next(self._outputs)
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, str(JOB), "--config", str(self._config)),
                    *(f"run.dir={self.folder}", "--address", self.cluster.head.address),
                    *arguments,
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.cluster.environment,
            )

    def _victims(self, fault: Fault) -> list[psutil.Process]:
        if fault.target == "driver":
            return [psutil.Process(self._process.pid)]
        role, title = PLACES[fault.target]
        limit = time.monotonic() + LIMIT_S
        while True:
            found = self._nodes[role].named(title) if title else self._nodes[role].processes()
            if found and title:
                # Of several learner ranks, one.
                return [random.Random(fault.delay_s).choice(found)]
            if found:
                return found
            assert time.monotonic() < limit, f"{fault}: no process to be found"
            time.sleep(0.1)

    def _wait(self, step: int, what: str) -> bool:
        """Waits for that many updates in a checkpoint, with one resume at most; whether there
        was one."""
        limit = time.monotonic() + LIMIT_S
        resumed = False
        while self.step < step:
            if self._process.poll() is not None:
                text = self._output.read_text()
                assert not resumed, f"{what}: ended again after --resume\n{text}"
                assert "Traceback" not in text, f"{what}: no message for people\n{text}"
                self._submit("--resume")
                resumed = True
            assert time.monotonic() < limit, f"{what}: hangs\n{self._output.read_text()}"
            time.sleep(0.1)
        return resumed


@contextmanager
def campaign(folder: Path, tree: dict[str, Any]) -> Iterator[Campaign]:
    with RayCluster() as cluster:
        made = Campaign(cluster, folder, tree)
        try:
            yield made
        finally:
            made.close()


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


# --- books ----------------------------------------------------------------------------


def recount(run: Path) -> dict[str, Any]:
    """Checks a stopped run's books against its trajectories; returns the ledger.

    Every prompt of every step is consumed once, in the order of the schedule, or dropped with a
    cause; no sample is in two batches; every update was published to every engine and verified.
    """
    config = load_config(run / "config.yaml")
    prompts = read_prompts(run / "data" / "prompts.parquet", split="train")
    schedule = Schedule.of(prompts, config.run, config.algorithm.group_size)
    metrics = read_metrics(run)
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    ledger: dict[str, Any] = metrics[-1]["ledger"]
    issued = consumed = 0
    dropped: Counter[str] = Counter()
    for row in metrics:
        step = row["step"] - 1
        scheduled = schedule.batch(step)
        path = run / "trajectories" / f"step-{step:06d}.parquet"
        batch = pq.read_table(path).to_pylist()
        assert {r["step"] for r in batch} <= {step}
        assert {v for r in batch for v in r["versions"]} <= {step}
        positions = [int(r["sample_id"].split("-")[1]) for r in batch]
        assert positions == sorted(set(positions))
        for position, r in zip(positions, batch, strict=True):
            assert r["sample_id"].split("-")[0] == str(step)
            assert r["prompt_id"] == scheduled[position].prompt_id
        lines = path.with_name(f"dropped-{step:06d}.jsonl").read_text().splitlines()
        missing = [json.loads(line) for line in lines]
        assert sorted(positions + [d["position"] for d in missing]) == [*range(len(scheduled))]
        # An engine that was down at the push is verified when it joins.
        assert {p["version"] for p in row["publication"]} <= {row["step"]}
        issued, consumed = issued + len(scheduled), consumed + len(batch)
        dropped.update(d["cause"] for d in missing)
    assert (ledger["issued"], ledger["consumed"]) == (issued, consumed)
    assert ledger["dropped"] == dropped
    assert issued == consumed + sum(dropped.values())
    return ledger


def report(outcomes: Sequence[Outcome], ledger: dict[str, Any]) -> str:
    """The campaign as Markdown."""
    lines = [
        f"{len(outcomes)} faults; {sum(not o.resumed for o in outcomes)} survived by the run "
        f"itself, {sum(o.resumed for o in outcomes)} with one `--resume`. "
        f"Issued {ledger['issued']}, consumed {ledger['consumed']}, dropped "
        f"{json.dumps(ledger['dropped'])}.",
        "",
        "| target | fault | times | with a resume | median s | longest s |",
        "|---|---|---|---|---|---|",
    ]
    kinds = sorted({(o.fault.target, o.fault.action) for o in outcomes})
    for target, action in kinds:
        found = [o for o in outcomes if (o.fault.target, o.fault.action) == (target, action)]
        seconds = sorted(o.seconds for o in found)
        lines.append(
            f"| {target} | {action} | {len(found)} | {sum(o.resumed for o in found)} | "
            f"{seconds[len(seconds) // 2]:.0f} | {seconds[-1]:.0f} |"
        )
    return "\n".join(lines) + "\n"
