"""How often a run would ask its judge, counted from the config and the data as the run does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from repo_ray.config import Config
from repo_ray.data.reader import DataError, read_prompts
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.pipeline.evaluation import EXAMPLE_DIALOGUES, evaluation_sets
from repo_ray.pipeline.inputs import DATA_SETS, local_inputs
from repo_ray.pipeline.monitor import FEWEST_PROMPTS, affordable_prompts, check_steps
from repo_ray.pipeline.run_folder import RunFolder
from repo_ray.records import Prompt
from repo_ray.rewards.judge.cost import Part, call_usage
from repo_ray.rewards.judge.rubric import Rubric
from repo_ray.training.dialogues import Episodes
from repo_ray.training.schedule import Schedule


def judge_calls(config: Config, rubric: Rubric) -> list[Part]:
    """The calls of training, held-out checks and evaluation; each answered at the first attempt.

    Replies count at their longest. Data that the run would build is built in a temporary folder.
    Raises `DataError`, and `ConfigError` where the prompts do not suffice.
    """
    with TemporaryDirectory() as folder:
        given = local_inputs(config, RunFolder(Path(folder)))
        if "prompts" in given:
            return _parts(config, rubric, given)
        build_datasets(Path(folder), config.run.seed, config.data.build_preferences)
        built = {k: Path(folder) / f"{k}.parquet" for k in DATA_SETS}
        return _parts(config, rubric, built | given)


def _parts(config: Config, rubric: Rubric, data: Mapping[str, Path]) -> list[Part]:
    reply = config.sampling.max_new_tokens
    prompts = read_prompts(data["prompts"], split="train")
    turns = 1
    if config.dialogue is not None:
        turns = config.dialogue.max_turns
        prompts = Episodes(config.dialogue, config.run.seed).openings(len(prompts))
    schedule = Schedule.of(prompts, config.run, config.algorithm.group_size)
    available = len(prompts) * config.run.epochs * config.algorithm.group_size
    samples = min(schedule.steps * config.run.batch_size, available)
    # Each turn of a dialogue adds a reply and an answer to what the judge reads at the next.
    dialogue = (turns - 1) * reply
    parts = [Part("training", samples * turns, call_usage(rubric, prompts, reply + dialogue))]
    if held := _held_out(config, data["prompts"], schedule.steps):
        checks = len(check_steps(config.monitor.every, schedule.steps))
        parts.append(Part("held-out checks", checks * len(held), call_usage(rubric, held, reply)))
    if config.evaluation.enabled and (explained := _explained(config, data)):
        columns = 3 if config.warm_start is not None else 2
        calls = columns * len(explained)
        parts.append(Part("evaluation", calls, call_usage(rubric, explained, reply)))
    return parts


def _held_out(config: Config, path: Path, steps: int) -> Sequence[Prompt]:
    """As many prompts as `monitor.start_monitor` takes, if all fit; none where it has no checks."""
    if not config.monitor.every:
        return []
    try:
        held = read_prompts(path, split="heldout")
    except DataError:
        return []
    affordable = affordable_prompts(config.monitor, steps, config.run.batch_size)
    count = min(config.monitor.prompts, affordable, len(held))
    return held[:count] if count >= FEWEST_PROMPTS else []


def _explained(config: Config, data: Mapping[str, Path]) -> Sequence[Prompt]:
    """The turns whose replies are scored by every source (`evaluation.evaluate_columns`)."""
    found: list[Prompt] = []
    for turns in evaluation_sets(config, data).turns.values():
        first = list(dict.fromkeys(turn.dialogue_id for turn in turns))[:EXAMPLE_DIALOGUES]
        found += [turn.prompt for turn in turns if turn.dialogue_id in first]
    return found
