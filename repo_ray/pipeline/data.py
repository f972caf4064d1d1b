"""The data of a run: given by the config, or built; and its prompts as the engines get them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repo_ray.config import Config
from repo_ray.data.reader import DataError, read_dialogues, read_prompts
from repo_ray.data.validation import Fault
from repo_ray.models.chat import ChatTemplateError, encode_prompt
from repo_ray.models.loading import load_tokenizer
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.pipeline.inputs import DATA_SETS, local_inputs
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import RunFolder, fingerprint
from repo_ray.records import Prompt

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


def refuse_long(config: Config, data: Mapping[str, Path], encode: Encode) -> None:
    """Every prompt that an engine may get, of every split, is one that it can take.

    Raises `DataError` naming file, row, tokens and limit, or what the chat template refuses.
    """
    for key in ("prompts", "online", "badcases"):
        if key in data:
            path = data[key]
            prompts = (
                read_prompts(path)
                if key == "prompts"
                else [turn.prompt for turn in read_dialogues(path)]
            )
            if faults := long_prompts(config, prompts, encode):
                raise DataError(path, faults)


def long_prompts(config: Config, prompts: Sequence[Prompt], encode: Encode) -> list[Fault]:
    """The rows over `model.max_prompt_tokens`; the first that the chat template refuses is the
    last of them, since the others may well be like it."""
    limit = config.model.max_prompt_tokens
    faults: list[Fault] = []
    for row, prompt in enumerate(prompts, start=1):
        try:
            count = len(encode(prompt))
        except ChatTemplateError as error:
            return [*faults, Fault(row, "messages", str(error))]
        if count > limit:
            problem = (
                f"prompt {prompt.prompt_id!r} has {count} tokens, model.max_prompt_tokens is "
                f"{limit}: raise it or shorten the prompt"
            )
            faults.append(Fault(row, "messages", problem))
    return faults
