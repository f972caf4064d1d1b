"""The reward model as an actor that gets one reply after another."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
import torch

from repo_ray.actors.environment import thread_environment
from repo_ray.actors.files import Files, read_files, unpacked
from repo_ray.benchmark.measure import Work
from repo_ray.benchmark.running import cluster
from repo_ray.benchmark.unlearned import write_reward_model
from repo_ray.config.settings import Config
from repo_ray.data.reader import read_preferences
from repo_ray.models.packing import pack, read_hidden
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.records import Prompt, Score
from repo_ray.rewards.reward_model import FORMAT, NAME, RewardModelCard, pair_tree
from repo_ray.rewards.tuned import load_checkpoint, load_merged
from repo_ray.training.system import Folders, System

#: Texts of a turn, of the built-in task (about 250 tokens each), and calls in flight at a time.
TEXTS, IN_FLIGHT = 64, 32

Texts = Sequence[tuple[Prompt, str]]


@ray.remote
class OneForward:
    """The same network in the same environment; all texts wait in one batch, tokenised."""

    def __init__(self, config: Config, checkpoint: Files, model: Path, texts: Texts) -> None:
        torch.set_num_threads(config.reward_model.pool.threads)
        with unpacked(checkpoint) as folder:
            tensors, card = load_checkpoint(folder, NAME, RewardModelCard, FORMAT)
            network, tokenizer = load_merged(folder, tensors, card.base, model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.nn.Module.to(network, device)
        trees = [
            pair_tree(tokenizer, prompt.messages, [reply], thinking=card.thinking)
            for prompt, reply in texts
        ]
        self._network = network.get_decoder()
        self._head = tensors["head"].to(device)
        self._batch = pack(trees, device)

    def run(self) -> list[float]:
        with torch.inference_mode():
            values: list[float] = (
                read_hidden(self._network, self._batch).float() @ self._head
            ).tolist()
        return values


@contextmanager
def streamed_against_one_forward(config: Config, model: Path) -> Iterator[tuple[Work, Work]]:
    """Texts come one at a time through the pool, the next when one is scored."""
    off = {
        "judge": config.judge.model_copy(update={"enabled": False}),
        "rules": config.rules.model_copy(update={"enabled": False}),
    }
    config = config.model_copy(update=off)
    with cluster(config), tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        root = Path(folder)
        build_datasets(root, config.run.seed, TEXTS)
        rows = read_preferences(root / "preferences.parquet")
        texts = [(row.prompt, row.chosen) for row in rows]
        checkpoint = write_reward_model(config, model, root / "reward_model")
        pool = System(config, Folders(model, checkpoint, None), root).scorers["reward_model"]
        threads = thread_environment(config.reward_model.pool.threads)
        forward = OneForward.options(  # type: ignore[attr-defined]
            num_cpus=0, runtime_env={"env_vars": threads}
        ).remote(config, read_files(checkpoint), model, texts)

        async def stream() -> float:
            slots = asyncio.Semaphore(IN_FLIGHT)

            async def one(prompt: Prompt, reply: str) -> Score:
                async with slots:
                    score: Score = await pool.call("score", prompt, reply)
                    return score

            scores = await asyncio.gather(*(one(*text) for text in texts))
            assert all(score.valid for score in scores)
            return len(scores)

        def at_once() -> float:
            return len(ray.get(forward.run.remote()))

        runner.run(pool.start())
        try:
            yield lambda: runner.run(stream()), at_once
        finally:
            runner.run(pool.stop())
