"""The data of a run: given by the config, or built; and its prompts as the engines get them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from repo_ray.config import Config
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_tokenizer
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.pipeline.inputs import DATA_SETS, local_inputs
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import RunFolder, fingerprint
from repo_ray.records import Prompt
from repo_ray.training.loop import RunError

#: A prompt's token ids.
Encode = Callable[[Prompt], list[int]]


async def prepare_data(config: Config, folder: RunFolder, display: Display) -> dict[str, Path]:
    """The path of every data set there is. Without `data.prompts`, the built-in task's data
    fills what the config does not name; with it, nothing is built.
    """
    given = config.data
    named = await asyncio.to_thread(local_inputs, config, folder)
    if given.prompts is not None:
        return named
    paths = {k: named.get(k, folder.data / f"{k}.parquet") for k in DATA_SETS}

    key = fingerprint(config.run.seed, given.build_preferences)
    saved = folder.phases().get("data")
    if saved is None or saved["fingerprint"] != key:
        began = time.monotonic()
        with display.phase("data", "building the negotiation data"):
            counts = await asyncio.to_thread(
                build_datasets, folder.data, config.run.seed, given.build_preferences
            )
        folder.finish_phase("data", key, time.monotonic() - began, counts)
    phase = folder.phases()["data"]
    display.seconds["data"] = phase["seconds"]
    rows = ", ".join(f"{count:,} {name}" for name, count in phase["result"].items())
    display.done(rows, "data")
    return paths


def encoder(config: Config, model: Path) -> Encode:
    """Prompts through the model's chat template."""
    tokenizer = load_tokenizer(model)
    thinking = config.model.thinking
    return lambda prompt: encode_prompt(tokenizer, prompt.messages, thinking=thinking)


def refuse_long(config: Config, prompts: Sequence[Prompt], encode: Encode) -> None:
    """Raises `RunError` for the first prompt over `model.max_prompt_tokens`."""
    limit = config.model.max_prompt_tokens
    for row, prompt in enumerate(prompts):
        count = len(encode(prompt))
        if count > limit:
            raise RunError(
                f"prompt {prompt.prompt_id} (row {row} of the training split) has {count} "
                f"tokens, model.max_prompt_tokens is {limit}: raise it or shorten the prompt"
            )
