"""`repo-ray judge`: can the judge be trusted, and what will it cost?"""

from __future__ import annotations

import json
import math
import random
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repo_ray.cli.console import ConfigOption, OverridesArgument, fail, user_errors
from repo_ray.config import Config, environment, load_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repo_ray.records import Prompt, Score
    from repo_ray.rewards.judge.consistency import Ask
    from repo_ray.rewards.judge.cost import Forecast, Part
    from repo_ray.rewards.judge.rubric import Rubric

app = typer.Typer(help="Check the judge of a run or config, or see its cost.", no_args_is_help=True)


@app.callback()
def judge() -> None:
    """Check the judge of a run or config, or see its cost."""


@app.command("check")
def check(
    source: Annotated[Path, typer.Argument(help="Run folder, or a YAML config.")],
    verdicts: Annotated[Path, typer.Option(help="Labelled replies: verdicts.parquet or .jsonl.")],
    samples: Annotated[int, typer.Option(min=2, help="Held-out replies to judge.")] = 60,
    against: Annotated[
        Path | None, typer.Option(help="An earlier check, to measure drift.", dir_okay=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Result; left out: judge-check-N.json in the run folder."),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
) -> None:
    """Ask the judge about labelled replies: as they are, again, and with the criteria in other
    places. Shows how many verdicts flip, AUC and calibration against the labels, and the drift
    from an earlier check. Exit status 1 if there is a finding."""
    config, checkpoint = _settings(source, overrides or [])
    if not config.judge.enabled:
        fail(f"{source}: judge.enabled is false: there is no judge to check")
    if config.judge.kind == "local" and checkpoint is None:
        fail(f"{source}: the local judge needs judge.checkpoint, or a run that trained one")
    import asyncio

    from rich.console import Console

    from repo_ray.data.reader import DataError, read_verdicts
    from repo_ray.rewards.declaration import RewardConfigError
    from repo_ray.rewards.judge.consistency import (
        JudgeCheckError,
        check_judge,
        drift,
        judge_identity,
        read_check,
    )
    from repo_ray.rewards.judge.rubric import load_rubric

    with user_errors(DataError, RewardConfigError, JudgeCheckError):
        earlier = read_check(against) if against else None
        rubric = load_rubric(config.judge.rubric)
        rows = read_verdicts(verdicts, split="heldout")
        random.Random(config.run.seed).shuffle(rows)
        chosen = rows[:samples]  # fewer samples are some of the same
        ask = _endpoint(config) if checkpoint is None else _local(config, checkpoint)
        seed, min_auc = config.run.seed, config.judge.min_auc
        result = asyncio.run(check_judge(ask, rubric, chosen, min_auc, seed))
        result["judge"] = judge_identity(config.judge, rubric, checkpoint)
        result["verdicts"] = {"file": verdicts.name, "heldout": len(rows), "seed": seed}
        if earlier is not None:
            result["drift"] = drift(earlier, result)
    path = out or _next_path(source)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console()
    findings = _show(console, result)
    console.print(f"saved: {path}", markup=False)
    if findings:
        raise typer.Exit(1)


@app.command("cost")
def show_cost(config: ConfigOption = None, overrides: OverridesArgument = None) -> None:
    """Print how often a run would ask its judge endpoint, what that costs, how long the rate limits
    make it take, and which limit is met first. Nothing is started or asked."""
    settings = load_config(config, overrides or ())
    if not settings.judge.enabled or settings.judge.kind != "endpoint":
        fail("judge.kind must be endpoint, and judge.enabled true: no other judge costs anything")
    from rich.console import Console

    from repo_ray.data.reader import DataError
    from repo_ray.pipeline.judge_cost import judge_calls
    from repo_ray.rewards.declaration import RewardConfigError
    from repo_ray.rewards.judge.cost import forecast
    from repo_ray.rewards.judge.rubric import load_rubric

    with user_errors(DataError, RewardConfigError):
        rubric = load_rubric(settings.judge.rubric)
        parts = judge_calls(settings, rubric)
    _show_cost(Console(highlight=False), settings, parts, forecast(parts, rubric, settings.judge))


def _settings(source: Path, overrides: list[str]) -> tuple[Config, Path | None]:
    """Config and the local judge's checkpoint: the config's, else what the run trained."""
    if source.is_file():
        config = load_config(source, overrides)
        return config, config.judge.checkpoint
    saved = source / "config.yaml"
    if not saved.is_file():
        fail(f"{source}: neither a YAML config nor a run folder (no config.yaml in it)")
    from repo_ray.pipeline.run_folder import RunFolder

    config, trained = load_config(saved, overrides), RunFolder(source.resolve()).judge
    if config.judge.kind == "endpoint":
        return config, None
    return config, config.judge.checkpoint or (trained if trained.is_dir() else None)


def _next_path(source: Path) -> Path:
    """`judge-check-N.json` with the first free N, so that no check overwrites another."""
    folder = source if source.is_dir() else Path()
    number = 1
    while (path := folder / f"judge-check-{number}.json").exists():
        number += 1
    return path


def _local(config: Config, checkpoint: Path) -> Ask:
    from transformers.utils.logging import disable_progress_bar

    from repo_ray.models.loading import ModelNotFoundError
    from repo_ray.rewards.judge.local import LocalJudge
    from repo_ray.rewards.tuned import CheckpointError

    disable_progress_bar()

    @lru_cache(maxsize=1)  # one model in memory, loaded anew for another order only
    def loaded(rubric: Rubric) -> LocalJudge:
        with user_errors(CheckpointError, ModelNotFoundError):
            return LocalJudge(checkpoint, rubric, config, config.judge.pool.threads)

    async def ask(rubric: Rubric, items: Sequence[tuple[Prompt, str]]) -> Sequence[Score]:
        return loaded(rubric).score(items)

    return ask


def _endpoint(config: Config) -> Ask:
    import asyncio

    from repo_ray.rewards.judge.budget import JudgeBudget
    from repo_ray.rewards.judge.endpoint import EndpointJudge

    # The check asks the same again on purpose.
    budget = JudgeBudget(config.judge.model_copy(update={"cache": False}))

    async def ask(rubric: Rubric, items: Sequence[tuple[Prompt, str]]) -> Sequence[Score]:
        key = environment(config.judge.api_key_env)
        judge = EndpointJudge(rubric, config.judge, api_key=key, budget=budget)
        free = asyncio.Semaphore(config.judge.pool.max_in_flight)

        async def one(prompt: Prompt, reply: str) -> Score:
            async with free:
                return await judge.score(prompt, reply)

        try:
            return await asyncio.gather(*(one(*item) for item in items))
        finally:
            await judge.close()

    return ask


def _show(console: Any, result: dict[str, Any]) -> list[str]:
    """Prints the check; returns its findings."""
    from rich.table import Table

    def share(value: float | None) -> str:
        return "none" if value is None else f"{value:.0%}"

    def number(value: float | None) -> str:
        return "none" if value is None else f"{value:.3f}"

    moved: dict[str, Any] = result.get("drift", {"criteria": {}, "findings": []})
    table = Table("criterion", "labels (+)", "AUC", "ECE", "again", "moved", "injected")
    table.columns[0].min_width = max(map(len, result["criteria"]))
    if "drift" in result:
        table.add_column("drift")
    for name, c in result["criteria"].items():
        cells = [f"{c['labels']} ({c['positives']})", number(c["auc"])]
        cells += [number(c["calibration_error"])]
        cells += [share(c[f"{kind}_flips"]) for kind in ("repeat", "order", "injection")]
        if "drift" in result:
            cells.append(share(moved["criteria"].get(name, {"flips": None})["flips"]))
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        "AUC and ECE (expected calibration error) against the labels; share of verdicts that "
        "flip when asked again, with the criteria moved, when the reply talks to the judge, and "
        "(drift) since the earlier check"
    )
    identity = result["judge"]
    console.print(f"judge: {identity['name']}", markup=False)
    hashes = ", ".join(f"{part} {identity[part][:12]}" for part in ("rubric", "prompt", "model"))
    console.print(hashes, markup=False)
    for name, causes in result["invalid"].items():
        if causes:
            console.print(f"invalid scores ({name}): {causes}", markup=False)
    if "drift" in result:
        changed = ", ".join(moved["changed"]) or "no hash"
        console.print(f"since the earlier check changed: {changed}", markup=False)
    findings = [*result["findings"], *moved["findings"]]
    for finding in findings or ["no finding"]:
        console.print(f"finding: {finding}" if findings else finding, markup=False)
    return findings


def _show_cost(console: Any, config: Config, parts: Sequence[Part], found: Forecast) -> None:
    from rich.table import Table

    table = Table("for", "calls", "input tokens", "output tokens", "input per call")
    for part in parts:
        each = part.each
        amounts = (part.calls, part.calls * each.input_tokens, part.calls * each.output_tokens)
        table.add_row(part.name, *(f"{n:,}" for n in (*amounts, each.input_tokens)))
    used = found.used
    table.add_row("all", *(f"{n:,}" for n in (found.calls, used.input_tokens, used.output_tokens)))
    console.print(table)
    console.print(
        "Counted: prompts of the data at four bytes a token, every reply at "
        f"sampling.max_new_tokens ({config.sampling.max_new_tokens}), every verdict with a short "
        "quote. Not counted: retries, prompts sampled again, one short request whenever a judge "
        "starts, and what judge.cache saves.",
        *(["Every dialogue counts with all its turns."] if config.dialogue else []),
    )
    for line in _limits(config, found):
        console.print(line, markup=False)


def _limits(config: Config, found: Forecast) -> list[str]:
    """Cost, time and limits, a line each."""
    if found.cost is None or found.longest_cost is None:
        lines = ["cost: no prices given (judge.price_per_million_input_tokens, ..._output_tokens)"]
    else:
        lines = [f"cost: {found.cost:.4g}, or {found.longest_cost:.4g} with the longest answers"]
    for key, minutes in found.minutes.items():
        lines.append(f"judge.{key} {getattr(config.judge, key):,}: at least {_duration(minutes)}")
    pace = max(found.minutes, key=lambda key: found.minutes[key], default=None)
    first = pace  # met from the first minute on, if the endpoint is fast enough
    if found.affordable is not None:
        text = f"judge.max_spend {config.judge.max_spend}: "
        if found.affordable < found.calls:
            first = first or "max_spend"
            text += f"reached after about {found.affordable:,} calls"
            if pace is not None:
                minutes = found.minutes[pace] * found.affordable / found.calls
                text += f", {_duration(minutes)} at that pace"
        else:
            text += "not reached"
        lines.append(text)
    if first is not None:
        lines.append(f"limit met first: judge.{first}")
    return lines


def _duration(minutes: float) -> str:
    hours, rest = divmod(math.ceil(minutes), 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"
