"""Whole steps: sampling, reward, update and push, against TRL's GRPO step."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from repo_ray.actors.environment import thread_environment
from repo_ray.benchmark.measure import Work
from repo_ray.config.settings import Config
from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.models.adapters import adapter_digest
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_tokenizer
from repo_ray.records import Experience, Message, Prompt, Reward
from repo_ray.rollouts.engine import RolloutEngine, engine_environment

#: Environment variables: the Python that has TRL; its gradient checkpointing (on, off); its memory
#: allocator: `ours`, by which it is 1.7 times as fast on a CPU, or the one it would have (`own`).
TRL_PYTHON = "REPO_RAY_TRL_PYTHON"
TRL_CHECKPOINTING, TRL_ALLOCATOR = "REPO_RAY_TRL_CHECKPOINTING", "REPO_RAY_TRL_ALLOCATOR"
TRL_SCRIPT = Path(__file__).with_name("trl_steps.py")
GROUP = 8
#: Unmeasured steps of ours before its first turn: the learner compiles for shapes that are new to it.
SETTLING = 3
PROMPTS = [
    "Write a long letter to the manager of a small hotel by the sea about the price of its rooms.",
    "Tell me in many words how the owner of a travel agency spends a busy day in the summer.",
]


def reward(text: str) -> float:
    """The number of words: costs nothing, and varies."""
    return float(len(text.split()))


@contextmanager
def grpo_against_trl(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """16 samples of up to 64 tokens in two groups; both start from the same weights."""
    config = config.model_copy(
        update={
            "algorithm": config.algorithm.model_copy(
                update={"advantage": "group", "group_size": GROUP}
            )
        }
    )
    os.environ.update(engine_environment(config))
    learner, engine = PPOLearner(config, model), RolloutEngine(config, model, "benchmark")
    tokenizer = load_tokenizer(model)
    prompts = [Prompt(f"p{i}", (Message("user", text),)) for i, text in enumerate(PROMPTS)]
    ids = {p.prompt_id: encode_prompt(tokenizer, p.messages, thinking=False) for p in prompts}
    steps = itertools.count(1)

    async def step() -> float:
        number = next(steps)
        rollouts = await asyncio.gather(
            *(
                engine.sample(f"{number}-{i}-0", p.prompt_id, 0, ids[p.prompt_id], 100 * number + i)
                for i, p in enumerate(p for p in prompts for _ in range(GROUP))
            )
        )
        batch = []
        for prompt, rollout in zip(
            (p for p in prompts for _ in range(GROUP)), rollouts, strict=True
        ):
            value = reward(rollout.text)
            batch.append(Experience(prompt, rollout, (), Reward(value, value, 0, 0, 0, 1)))
        # In the thread that made the learner: in another, only 1.4 of two cores are busy.
        result = learner.update(batch)
        assert not result.skipped, result.skipped
        blob = learner.adapter_blob("policy")
        await engine.push(blob, number, adapter_digest(blob))
        return len(batch)

    def trl_step() -> float:
        theirs()
        return len(PROMPTS) * GROUP

    with asyncio.Runner() as runner, trl(model) as theirs:
        runner.run(engine.start())
        try:
            for _ in range(SETTLING):
                runner.run(step())
            yield lambda: runner.run(step()), trl_step
        finally:
            runner.run(engine.shutdown())


@contextmanager
def trl(model: Path) -> Iterator[Callable[[], float]]:
    """A step of TRL's trainer, in a process of its own; returns its peak memory so far, MiB."""
    command = [os.environ.get(TRL_PYTHON, sys.executable)]
    command += [str(TRL_SCRIPT), str(model), json.dumps(PROMPTS)]
    command += [os.environ.get(TRL_CHECKPOINTING, "off")]
    # Of our own engine, learner and actors: TRL would take itself for a rank of several.
    ours = ("VLLM_", "LOCAL_RANK", "DS_ACCELERATOR", "LD_PRELOAD", "MALLOC_CONF")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    threads = os.cpu_count() or 1
    environment |= {"OMP_NUM_THREADS": str(threads)}
    if os.environ.get(TRL_ALLOCATOR, "ours") == "ours":
        environment |= thread_environment(threads, alone=True)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def step() -> float:
        stdin.write("step\n")
        stdin.flush()
        said = stdout.readline()
        if not said:
            raise RuntimeError(f"TRL ended with {process.wait()}: is it in {command[0]}?")
        return float(json.loads(said)["peak_mib"])

    try:
        yield step
    finally:
        process.kill()
        process.wait()
