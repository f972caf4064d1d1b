"""What the processes need at their peak: the learner's against TRL's trainer, and all together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.running import training
from repo_ray.benchmark.steps import TRL_SCRIPT, trl
from repo_ray.benchmark.whole import prompts
from repo_ray.config.settings import Config

MIB = 2**20
#: Ray names a process after its actor.
LEARNER = "ray::LearnerActor"
SAMPLE_EVERY_S = 0.5


@contextmanager
def learner_against_trainer(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """Peak resident memory of one process each since it started, after another step."""
    with training(config, model, prompts()) as ours, trl(model) as theirs:

        def learner() -> float:
            ours.step()
            return max(_peak_mib(p) for p in _ours() if p.name().startswith(LEARNER))

        yield learner, theirs


@contextmanager
def all_against_trainer(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """Everything of ours during a step, memory that is shared counted once: engine, learner, reward
    model, judge, rules, Ray and the driver."""
    with training(config, model, prompts()) as ours, trl(model) as theirs:

        def everything() -> float:
            peak = 0.0
            done = threading.Event()

            def watch() -> None:
                nonlocal peak
                while not done.wait(SAMPLE_EVERY_S):
                    peak = max(peak, sum(_share_mib(p) for p in _ours()))

            thread = threading.Thread(target=watch, name="memory")
            thread.start()
            try:
                ours.step()
            finally:
                done.set()
                thread.join()
            return peak

        yield everything, theirs


def _ours() -> list[psutil.Process]:
    """This process and all below it but TRL's."""
    here = psutil.Process()
    found = [here]
    for process in here.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if str(TRL_SCRIPT) not in process.cmdline():
                found.append(process)
    return found


def _peak_mib(process: psutil.Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {process.pid} has no peak")


def _share_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / MIB
    except psutil.NoSuchProcess:
        return 0.0
