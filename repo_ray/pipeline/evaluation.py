"""The last phase: every column's replies to the evaluation dialogues, judged by the gold evaluator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_ray.config import Config
from repo_ray.config.dialogue import DialogueConfig
from repo_ray.data.examples import DialogueTurn
from repo_ray.data.reader import read_dialogues, read_hidden, read_prompts
from repo_ray.evaluation.evaluate import GeneratedReply, evaluate_rows, save_evaluation
from repo_ray.evaluation.gold import knows_task
from repo_ray.evaluation.negotiations import judge_negotiations, save_negotiations
from repo_ray.evaluation.uses import log_use
from repo_ray.negotiation.episodes import open_episode
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import RunFolder
from repo_ray.records import FinishReason, Prompt, Rollout, Score
from repo_ray.training.collect import Collector, sampling_seed
from repo_ray.training.dialogues import Negotiation, negotiate
from repo_ray.training.system import System

ONLINE, BADCASES = "online", "badcases"
#: Dialogues of the built-in task whose replies are also scored by reward model and judge, for the
#: report's examples. Of a task that the gold evaluator does not know, all are: the reward is then the
#: only score there is.
EXAMPLE_DIALOGUES = 3
#: Episode seeds are short enough to be written down.
SEED_SHIFT = 32


@dataclass(frozen=True)
class EvaluationSets:
    """The turns of every set, and the hidden truth that only the gold evaluator reads."""

    turns: Mapping[str, Sequence[DialogueTurn]]
    hidden: Mapping[str, Mapping[str, Mapping[str, Any]]]
    files: Mapping[str, Path]

    @property
    def count(self) -> int:
        return sum(map(len, self.turns.values()))


def evaluation_sets(config: Config, data: Mapping[str, Path]) -> EvaluationSets:
    """The dialogues that the config asks for. Own data without dialogues is evaluated on its
    held-out prompts, each a dialogue of one turn.
    """
    limits = {
        ONLINE: config.evaluation.online_dialogues,
        BADCASES: config.evaluation.badcase_dialogues,
    }
    sets = {n: _selected(data[n], limits[n], config) for n in limits if n in data}
    if sets:
        hidden = {name: read_hidden(data[name], "dialogues") for name in sets}
        return EvaluationSets(sets, hidden, {name: data[name] for name in sets})
    held = read_prompts(data["prompts"], split="heldout")[: limits[ONLINE]]
    turns = [DialogueTurn(prompt.prompt_id, 0, prompt) for prompt in held]
    return EvaluationSets({ONLINE: turns}, {ONLINE: {}}, {})


async def evaluate_columns(
    config: Config,
    folder: RunFolder,
    system: System,
    encode: Callable[[Prompt], list[int]],
    sets: EvaluationSets,
    policies: Mapping[str, bytes | None],
    version: int,
    display: Display,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of `EVALUATION_SCHEMA` by column; each column's adapter is pushed and verified.

    `policies` maps a column (`base`, `warm_start`, `repo`) to its adapter blob; None stands for
    the data's own annotations instead of sampled replies. Replies are sampled as in training,
    with the same seeds in every column. `version` is the last one used.
    """
    collector = Collector(config, system.rollout, system.scorers, encode)
    total = len(policies) * sets.count
    done = 0
    columns: dict[str, list[dict[str, Any]]] = {}
    folder.evaluation.mkdir(exist_ok=True)

    async def sampled(column: str, name: str, row: DialogueTurn) -> tuple[str, FinishReason, int]:
        sample_id = f"evaluation-{name}-{row.dialogue_id}-{row.turn}"
        rollout: Rollout = await system.rollout.call(
            "sample",
            f"{column}-{sample_id}",
            row.prompt.prompt_id,
            0,
            encode(row.prompt),
            sampling_seed(config.run.seed, sample_id),
        )
        return rollout.text, rollout.finish_reason, len(rollout.token_ids)

    async def reply(column: str, name: str, row: DialogueTurn, explain: bool) -> GeneratedReply:
        nonlocal done
        if policies[column] is None:
            replied: tuple[str, FinishReason, int] = (row.annotation, "stop", 0)
        else:
            replied = await sampled(column, name, row)
        text = replied[0]
        scores: tuple[Score, ...] = ()
        if explain:
            scores = await collector.score(row.prompt, text)
        elif "rules" in system.scorers:
            scores = (await system.scorers["rules"].call("score", row.prompt, text),)
        reward = collector.reward(scores) if explain and all(s.valid for s in scores) else None
        done += 1
        display.update(done, total, f"{column}: reply {done} of {total}")
        return GeneratedReply(*replied, scores, reward)

    for column, blob in policies.items():
        if blob is not None:
            version += 1
            await system.publisher.push(system.rollout, blob, version)
        rows: list[dict[str, Any]] = []
        for name, turns in sets.turns.items():
            explained = set(list(dict.fromkeys(t.dialogue_id for t in turns))[:EXAMPLE_DIALOGUES])
            explained |= {t.dialogue_id for t in turns if not knows_task(t.prompt.context)}
            replies = await asyncio.gather(
                *(reply(column, name, turn, turn.dialogue_id in explained) for turn in turns)
            )
            rows += evaluate_rows([_row(t, sets.hidden[name]) for t in turns], replies, name)
            if name in sets.files:
                file = sets.files[name]
                log_use(folder.root, name, "evaluation of a model", column=column, data_file=file)
        save_evaluation(folder.evaluation, column, rows)
        columns[column] = rows
        if config.evaluation.negotiations and blob is not None:
            display.update(done, total, f"{column}: whole negotiations")
            played = await _negotiations(config, system, encode)
            save_negotiations(folder.evaluation, column, judge_negotiations(played))
    return columns


async def _negotiations(
    config: Config, system: System, encode: Callable[[Prompt], list[int]]
) -> list[Negotiation]:
    """Whole dialogues of the present policy; the same held-out episodes for every policy."""
    settings = config.dialogue or DialogueConfig()

    async def one(number: int) -> Negotiation:
        seed = sampling_seed(config.run.seed, f"negotiation-{number}") >> SEED_SHIFT
        episode = open_episode(seed, "heldout", settings.hotelier, settings.max_turns)

        async def sample(turn: int, token_ids: list[int]) -> Rollout:
            sample_id = f"negotiation-{number}-{turn}"
            rollout: Rollout = await system.rollout.call(
                "sample",
                sample_id,
                episode.prompt_id,
                0,
                token_ids,
                sampling_seed(config.run.seed, sample_id),
            )
            return rollout

        room = config.rollout.max_model_len - config.sampling.max_new_tokens
        return await negotiate(seed, episode, sample, encode, settings.max_turns, room)

    numbers = range(config.evaluation.negotiations)
    return list(await asyncio.gather(*(one(number) for number in numbers)))


def _selected(path: Path, dialogues: int, config: Config) -> list[DialogueTurn]:
    """The first dialogues of a set; of each, the turns that provoke its issue come first."""
    by_dialogue: dict[str, list[DialogueTurn]] = {}
    for turn in read_dialogues(path):
        by_dialogue.setdefault(turn.dialogue_id, []).append(turn)
    limit = config.evaluation.turns_per_dialogue
    chosen: list[DialogueTurn] = []
    for turns in list(by_dialogue.values())[:dialogues]:
        kept = sorted(turns, key=lambda t: (not t.issue, t.turn))[:limit]
        chosen += sorted(kept, key=lambda t: t.turn)
    return chosen


def _row(turn: DialogueTurn, hidden: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The turn as the gold evaluator reads it, hidden truth included."""
    prompt = turn.prompt
    return {
        "dialogue_id": turn.dialogue_id,
        "turn": turn.turn,
        "messages": prompt.messages,
        "context": json.dumps(dict(prompt.context), ensure_ascii=False),
        "hidden": json.dumps(hidden.get(prompt.prompt_id, {})),
        "issue": turn.issue or None,
    }
