"""How long a run takes to come up, against vLLM alone."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import repo_ray
from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.rollouts import vllm_arguments
from repo_ray.benchmark.unlearned import write_judge, write_reward_model
from repo_ray.config.load import dump_config
from repo_ray.config.settings import Config
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.rollouts.engine import engine_environment

JOB = Path(repo_ray.__file__).parent.parent / "jobs" / "train_repo.py"
FIRST_SAMPLE = re.compile(rb"sample 1 of \d+")
#: A run that is asked to stop writes a checkpoint first.
STOP_S = 60.0


@contextmanager
def start_against_vllm(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """Seconds from the process to the first sample of the first step, all scorers in place and
    their checkpoints given; theirs: to the first token of the same engine. Neither is compiled, as
    in a first run."""
    eager = config.rollout.model_copy(update={"enforce_eager": True})
    config = config.model_copy(update={"rollout": eager})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        command = [sys.executable, str(JOB), "--config", str(_prepared(config, model, root))]
        runs = itertools.count()
        environment = {**os.environ, **engine_environment(config)}
        vllm = [sys.executable, str(Path(__file__).with_name("vllm_start.py"))]
        vllm.append(json.dumps(vllm_arguments(config, model)))

        def ours() -> float:
            return _first_sample([*command, f"run.name=start-{next(runs)}", f"run.dir={root}"])

        def theirs() -> float:
            began = time.perf_counter()
            process = subprocess.Popen(
                vllm, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            with process:
                assert process.stdout is not None
                said = process.stdout.readline()
                took = time.perf_counter() - began
            if said != b"1\n":
                raise RuntimeError(f"vLLM alone did not start: {' '.join(vllm)}")
            return took

        yield ours, theirs


def _prepared(config: Config, model: Path, root: Path) -> Path:
    """The config of a run that has nothing left to do before it starts."""
    build_datasets(root, config.run.seed, config.run.batch_size * 4)
    tree = {
        "data": {"prompts": root / "prompts.parquet"},
        "reward_model": {"checkpoint": write_reward_model(config, model, root / "reward_model")},
        "judge": {"checkpoint": write_judge(config, model, root / "judge")},
    }
    update = {
        name: getattr(config, name).model_copy(update=values) for name, values in tree.items()
    }
    update["warm_start"] = None
    update["monitor"] = config.monitor.model_copy(update={"every": 0})
    update["evaluation"] = config.evaluation.model_copy(update={"enabled": False})
    path = root / "config.yaml"
    path.write_text(dump_config(config.model_copy(update=update)), encoding="utf-8")
    return path


def _first_sample(command: list[str]) -> float:
    """Runs the job on a terminal, where it tells of every sample, and stops it after the first."""
    ours, terminal = pty.openpty()
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    said = b""
    try:
        while not FIRST_SAMPLE.search(said):
            said += os.read(ours, 1 << 16)
        took = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
        _read_on(ours, process)
    except OSError as error:  # it ended, and its end of the terminal with it
        raise RuntimeError(f"no sample; the job said: {said[-2000:].decode()}") from error
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return took


def _read_on(terminal: int, process: subprocess.Popen[bytes]) -> None:
    """Until the job has ended: with a terminal that nobody reads it would wait for ever."""
    deadline = time.monotonic() + STOP_S
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            with suppress(OSError):  # it has just closed its end
                os.read(terminal, 1 << 16)
