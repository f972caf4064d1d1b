"""Preference pairs against the warm start's own replies.

A reward model that has only seen written replies is used on sampled ones, which it does not
know, and where it does not know the policy finds what it overrates. The paper's fourth source of
preferences is therefore made after the first SFT (its data section: 1,991 of 6,632 pairs).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config import Config
from repo_ray.data.examples import Preference
from repo_ray.data.reader import read_preferences
from repo_ray.data.selection import chosen_rows
from repo_ray.pipeline.data import encoder
from repo_ray.pipeline.run_folder import RunFolder
from repo_ray.records import PREFERENCES_SCHEMA, Rollout
from repo_ray.training.collect import sampling_seed
from repo_ray.training.publication import Publisher
from repo_ray.training.system import rollout_pool

#: The defect of such a pair: the reward model's accuracy is given for it apart.
OWN_SAMPLE = "own_sample"


async def write_pairs(
    config: Config,
    folder: RunFolder,
    model: Path,
    policy: bytes | None,
    preferences: Path,
    tell: Callable[[str], None],
) -> tuple[Path, str]:
    """Writes the pairs that the reward model trains on and is measured on; returns their file and
    what was done, in words.

    They are the stage's rows (`max_rows`, `max_eval_rows`) and, after a share of them
    (`train_reward_model.own_samples`), the same prompt and chosen reply with a reply of `policy`
    (None: the base), sampled as in training. A prompt longer than `model.max_prompt_tokens` is not
    drawn; a pair is left out where the sample is empty or the chosen reply itself, or the call
    timed out. Raises `DataError`, and what starting the engines raises.
    """
    stage, seed = config.train_reward_model, config.run.seed
    train, heldout = chosen_rows(read_preferences(preferences), stage, seed)
    encode = encoder(config, model)
    rows = [*train, *heldout]
    prompts = {i: encode(row.prompt) for i, row in enumerate(rows)}
    fitting = [i for i, ids in prompts.items() if len(ids) <= config.model.max_prompt_tokens]
    wanted = min(len(fitting), round(stage.own_samples * len(rows)))
    drawn = sorted(random.Random(f"{seed}/own_samples").sample(fitting, wanted))

    publisher = Publisher()
    if policy is not None:
        publisher.prepare(policy, 1)
    engines = rollout_pool(config, model, publisher)
    own: dict[int, str] = {}

    async def sample(index: int) -> None:
        sample_id = f"own-sample-{index}"
        arguments = (0, prompts[index], sampling_seed(seed, sample_id))
        try:
            rollout: Rollout = await engines.call(
                "sample", sample_id, rows[index].prompt.prompt_id, *arguments
            )
        except CallTimeoutError:
            return
        own[index] = rollout.text.strip()
        tell(f"{len(own)}/{wanted} own samples")

    tell("starting engines for own samples")
    try:
        await engines.start()
        await asyncio.gather(*map(sample, drawn))
    finally:
        await engines.stop()
    pairs: list[Preference] = []
    for index, row in enumerate(rows):
        pairs.append(row)
        if own.get(index, "") not in ("", row.chosen.strip()):
            pairs.append(replace(row, rejected=own[index], defect=OWN_SAMPLE))
    out = folder.data / "preferences_own_samples.parquet"
    _write(pairs, out)
    return out, f"{len(pairs) - len(rows)} against own samples ({wanted} drawn)"


def _write(pairs: list[Preference], out: Path) -> None:
    rows = [
        {
            "prompt_id": pair.prompt.prompt_id,
            "messages": [asdict(message) for message in pair.prompt.messages],
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "source": pair.source,
            "defect": pair.defect,
            "context": json.dumps(dict(pair.prompt.context), ensure_ascii=False),
            "split": pair.split,
        }
        for pair in pairs
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=PREFERENCES_SCHEMA), partial)
    partial.replace(out)
