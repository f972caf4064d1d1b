"""A whole system in training, a step at a time."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from repo_ray.actors.control import Mailbox, namespace
from repo_ray.benchmark.unlearned import write_judge, write_reward_model
from repo_ray.config.settings import Config
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_tokenizer
from repo_ray.records import Prompt
from repo_ray.training.loop import Controller, Outcome
from repo_ray.training.metrics import read_metrics
from repo_ray.training.schedule import Schedule
from repo_ray.training.system import Folders, System

#: More steps, and passes over the prompts, than are ever made.
NO_END = 1_000_000


class Training:
    """Engines, scorers, learner and controller as in a run; `step` makes one step of it.

    Its event loop has a thread of its own, so that actors are answered while others have their
    turn. Reward model and judge have learned nothing. Raises what a run raises.
    """

    def __init__(self, config: Config, model: Path, prompts: Sequence[Prompt], root: Path) -> None:
        endless = {"steps": None, "epochs": NO_END, "checkpoint_every": NO_END}
        self._config = config.model_copy(update={"run": config.run.model_copy(update=endless)})
        self._root = root
        rm = write_reward_model(config, model, root / "rm") if config.reward_model.enabled else None
        judge = write_judge(config, model, root / "judge") if config.judge.enabled else None
        self._system = System(self._config, Folders(model, rm, judge), root)
        self._schedule = Schedule.of(prompts, self._config.run, config.algorithm.group_size)
        self._tokenizer = load_tokenizer(model)
        self._go, self._stepped = asyncio.Semaphore(0), asyncio.Semaphore(0)
        self._training: asyncio.Task[Outcome] | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="training", daemon=True).start()

    def start(self) -> None:
        """Returns when everything is ready for the first step."""
        self._do(self._start())

    def step(self) -> None:
        """Samples, scores, updates, and has every engine prove the new adapter."""
        self._do(self._step())

    def finish(self) -> list[dict[str, Any]]:
        """Ends as a run that is asked to stop; returns what it noted of every step
        (`metrics.jsonl`)."""
        self._do(self._finish())
        return read_metrics(self._root)

    def stop(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _start(self) -> None:
        config = self._config
        self._mailbox = Mailbox(config.run.name, config.run.silence_s)
        await self._system.start(None, lambda line: None, None)
        self._controller = Controller(
            config,
            self._root,
            self._system,
            self._schedule,
            lambda prompt: encode_prompt(
                self._tokenizer, prompt.messages, thinking=config.model.thinking
            ),
            self._mailbox,
            lambda done, total, text: None,
            None,
            self._after_step,
        )
        self._training = asyncio.ensure_future(self._controller.train())
        await self._wait()

    async def _after_step(self, updates: int) -> Mapping[str, Any]:
        """The controller waits here for its turn."""
        self._stepped.release()
        await self._go.acquire()
        return {}

    async def _step(self) -> None:
        self._go.release()
        await self._wait()

    async def _finish(self) -> None:
        assert self._training is not None
        self._controller.request_stop()
        self._go.release()
        await self._training

    async def _wait(self) -> None:
        assert self._training is not None
        stepped = asyncio.ensure_future(self._stepped.acquire())
        await asyncio.wait({stepped, self._training}, return_when=asyncio.FIRST_COMPLETED)
        if not stepped.done():
            stepped.cancel()
            self._training.result()

    async def _stop(self) -> None:
        if self._training is not None:
            self._training.cancel()
            await asyncio.gather(self._training, return_exceptions=True)
        await self._system.stop()
        self._mailbox.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def cluster(config: Config) -> Iterator[None]:
    """A Ray cluster of its own."""
    ray.init(
        address="local",
        namespace=namespace(config.run.name),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def training(config: Config, model: Path, prompts: Sequence[Prompt]) -> Iterator[Training]:
    """A system that is ready for its first step."""
    with cluster(config), tempfile.TemporaryDirectory() as root:
        made = Training(config, model, prompts, Path(root))
        try:
            made.start()
            yield made
        finally:
            made.stop()
