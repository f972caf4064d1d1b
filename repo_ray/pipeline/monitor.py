"""During training: the same held-out prompts again and again, scored by the reward and by gold.

The gold scores go into metrics, log and report, never into a reward: the training loop only
passes on what `after_step` returns.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config import Config
from repo_ray.config.monitor import MonitorConfig
from repo_ray.data.reader import DataError, read_hidden, read_prompts
from repo_ray.evaluation.collapse import collapse_notice, form, length_notice
from repo_ray.evaluation.evaluate import GeneratedReply, evaluate_rows
from repo_ray.evaluation.gold import knows_task
from repo_ray.evaluation.hacking import (
    HELDOUT_SCHEMA,
    SOURCES,
    agreement,
    compare_checks,
    serious,
    small_share,
)
from repo_ray.records import Prompt, Rollout
from repo_ray.training.collect import Collector, sampling_seed
from repo_ray.training.loop import SMALL_R_MODEL
from repo_ray.training.system import System

log = logging.getLogger(__name__)

#: Fewer prompts than this say nothing about a mean.
FEWEST_PROMPTS = 8
#: Columns whose means over a check's replies are metrics.
MEANS = {"proxy": "reward", "gold": "gold_score"} | {
    name: name for name in ("r_model", "e_judge", "e_func", "e_enh", "tokens")
}

Row = dict[str, Any]


class Monitor:
    """Measures after chosen steps. `after_step` is what `training.loop.Controller` takes.

    `steps`: those of the whole run. Checks up to `done` updates that are on disk are kept, later
    ones are removed: a resumed run makes them again.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        system: System,
        encode: Callable[[Prompt], list[int]],
        prompts: Sequence[Prompt],
        hidden: Mapping[str, Mapping[str, Any]],
        steps: int,
        done: int,
    ) -> None:
        self._config = config
        self._folder = folder
        self._rollout = system.rollout
        self._collector = Collector(config, system.rollout, system.scorers, encode)
        self._encode = encode
        self._prompts = prompts
        self._hidden = hidden
        self._steps = check_steps(config.monitor.every, steps)
        self._rows: dict[int, list[Row]] = {}
        self._noticed: set[str] = set()
        for path in sorted(folder.glob("step-*.parquet")):
            step = int(path.stem.removeprefix("step-"))
            if step <= done:
                self._rows[step] = pq.read_table(path, schema=HELDOUT_SCHEMA).to_pylist()
            else:
                path.unlink()

    async def after_step(self, step: int) -> dict[str, Any]:
        """Metrics of the check after `step` updates; none where no check is due."""
        if step not in self._steps:
            return {}
        began = time.monotonic()
        if step not in self._rows:
            self._rows[step] = await self._measure(step)
            self._write(step)
        values = await asyncio.to_thread(self._values, step)
        return values | {"time/heldout_s": time.monotonic() - began}

    async def _measure(self, step: int) -> list[Row]:
        """Rows of `HELDOUT_SCHEMA`. A prompt whose reply did not come in time has none."""
        found = await asyncio.gather(*(self._row(step, prompt) for prompt in self._prompts))
        return [row for row in found if row is not None]

    async def _row(self, step: int, prompt: Prompt) -> Row | None:
        try:
            rollout: Rollout = await self._rollout.call(
                "sample",
                f"heldout-{step}-{prompt.prompt_id}",
                prompt.prompt_id,
                0,
                self._encode(prompt),
                # The same in every check: an unchanged policy gives unchanged replies.
                sampling_seed(self._config.run.seed, f"heldout-{prompt.prompt_id}"),
            )
        except CallTimeoutError:
            return None
        scores = await self._collector.score(prompt, rollout.text)
        valid = all(score.valid for score in scores)
        reward = self._collector.reward(scores) if valid else None
        parts = ("r_model", "e_judge", "e_func", "e_enh", "multiplier")
        asked = {
            "dialogue_id": prompt.prompt_id,
            "turn": 0,
            "messages": prompt.messages,
            "context": json.dumps(dict(prompt.context), ensure_ascii=False),
            "hidden": json.dumps(self._hidden.get(prompt.prompt_id, {})),
        }
        reply = GeneratedReply(
            rollout.text, rollout.finish_reason, len(rollout.token_ids), scores, reward
        )
        (judged,) = evaluate_rows([asked], [reply], "heldout")
        values = {p: getattr(reward, p) if reward else None for p in parts}
        return {"step": step, **judged, **values}

    def _write(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:06d}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(pa.Table.from_pylist(self._rows[step], schema=HELDOUT_SCHEMA), partial)
        partial.replace(path)

    def _values(self, step: int) -> dict[str, Any]:
        rows = self._rows[step]
        values = check_metrics(rows, self._config.enhancement.n)
        values["heldout/missing"] = len(self._prompts) - sum(r["reward"] is not None for r in rows)
        earlier = [s for s in self._rows if s < step and self._rows[s]]
        if not earlier or not rows:
            return values
        before, now = form(self._rows[min(earlier)]), form(rows)
        notices = {"length": length_notice(before, now), "collapse": collapse_notice(before, now)}
        for kind, text in notices.items():
            values[f"alarm/{kind}"] = int(bool(text))
            if text and kind not in self._noticed:
                self._noticed.add(kind)
                log.warning("notice after step %d: %s (held-out prompts)", step, text)
        values["alarm/notice"] = "; ".join(text for text in notices.values() if text)
        return values | self._alarm(step)

    def _alarm(self, step: int) -> dict[str, Any]:
        settings = self._config.monitor
        rows = [row for s, check in self._rows.items() if s <= step for row in check]
        found = compare_checks(rows, len(self._steps), settings.false_alarms, self._config.run.seed)
        if found is None:
            return {}
        if found.alarm:
            log.warning("reward hacking: the reward rose while the gold score fell: %s", found.text)
        return {
            "alarm/hacking": int(found.alarm),
            "alarm/text": found.text,
            "alarm/since": found.since,
            **{
                f"alarm/{name}_{part}": getattr(change, part)
                for name, change in (("proxy", found.proxy), ("gold", found.gold))
                for part in ("value", "low", "high")
            },
        }


def start_monitor(
    config: Config,
    root: Path,
    system: System,
    encode: Callable[[Prompt], list[int]],
    prompts: Path,
    steps: int,
    done: int,
) -> Monitor | None:
    """The monitor of a run of `steps` steps, `done` of them made; None where it has nothing to do.

    `root` is the run folder, `prompts` the data set. None, with a warning unless `monitor.every`
    is 0, where there are too few held-out prompts or `monitor.max_share` leaves too few.
    """
    settings = config.monitor
    if not settings.every:
        return None
    try:
        held = read_prompts(prompts, split="heldout")
    except DataError:  # the file was read before: it has no such rows
        held = []
    fitting = [p for p in held if len(encode(p)) <= config.model.max_prompt_tokens]
    training = steps * config.run.batch_size
    affordable = affordable_prompts(settings, steps, config.run.batch_size)
    count = min(settings.prompts, affordable, len(fitting))
    if count < FEWEST_PROMPTS:
        log.warning(
            "no checks for reward hacking: %d prompts would be left, at least %d are needed "
            "(%d held-out prompts that fit; monitor.max_share %g of %d training samples)",
            *(count, FEWEST_PROMPTS, len(fitting), settings.max_share, training),
        )
        return None
    checks = len(check_steps(settings.every, steps))
    log.info(
        "checks for reward hacking: %d of %d held-out prompts after %d of %d steps, %d samples "
        "(%.0f%% of the training samples)",
        *(count, len(fitting), checks, steps, count * checks, 100 * count * checks / training),
    )
    ordered = sorted(fitting, key=lambda prompt: prompt.prompt_id)
    chosen = random.Random(f"{config.run.seed}/heldout").sample(ordered, count)
    if not any(knows_task(prompt.context) for prompt in chosen):
        log.warning(
            "the gold evaluator does not know the task of these prompts: the checks show reward and "
            "form of the replies, and raise no alarm"
        )
    hidden = read_hidden(prompts, "prompts")
    return Monitor(config, heldout_folder(root), system, encode, chosen, hidden, steps, done)


def check_steps(every: int, steps: int) -> list[int]:
    """After how many updates there is a check: none, each `every`, and all."""
    return sorted({*range(0, steps + 1, every), steps})


def affordable_prompts(settings: MonitorConfig, steps: int, batch_size: int) -> int:
    """Most prompts per check with which all checks stay within `monitor.max_share`."""
    checks = len(check_steps(settings.every, steps))
    return int(settings.max_share * steps * batch_size / checks)


def heldout_folder(root: Path) -> Path:
    return root / "heldout"


def read_checks(root: Path) -> list[Row]:
    """All rows of all checks of a run folder, in order."""
    rows: list[Row] = []
    for path in sorted(heldout_folder(root).glob("step-*.parquet")):
        rows += pq.read_table(path, schema=HELDOUT_SCHEMA).to_pylist()
    return rows


def check_metrics(rows: Sequence[Row], n: float) -> dict[str, Any]:
    """Figures of one check, as metrics; what cannot be had (no valid score, a task that gold does
    not know) is left out."""
    if not rows:
        return {}
    values: dict[str, Any] = {"heldout/samples": len(rows)}
    for name, column in MEANS.items():
        found = [row[column] for row in rows if row[column] is not None]
        if found:
            values[f"heldout/{name}"] = sum(found) / len(found)
    judged = [row for row in rows if row["gold_score"] is not None]
    if judged:
        values["heldout/gold_serious"] = sum(map(serious, judged)) / len(judged)
    enhancements = [abs(row["e_enh"]) >= n for row in rows if row["e_enh"] is not None]
    if enhancements:
        values["heldout/clipped_share"] = sum(enhancements) / len(enhancements)
        values["heldout/small_r_model_share"] = small_share(rows, SMALL_R_MODEL)
    for column in SOURCES:
        rank = agreement(rows, column).spearman
        if rank is not None:
            values[f"heldout/gold_correlation_{column}"] = rank
    shape = form(rows)
    for part in ("words", "cut", "repetition", "distinct_2", "overlap", "openings"):
        values[f"heldout/{part}"] = getattr(shape, part)
    return values
