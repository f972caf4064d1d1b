"""`repo-ray score`: what every reward source says of one reply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from repo_ray.cli.console import fail, user_errors
from repo_ray.config import Config, load_config


def command(
    reply: Annotated[str, typer.Option(help="The agent's reply.")],
    context: Annotated[
        str,
        typer.Option(
            help="JSON object, or a file with one: the facts, or a row of a prompts file "
            "(with `messages` and `context`)."
        ),
    ] = "{}",
    message: Annotated[str | None, typer.Option(help="The message that the reply answers.")] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", "-r", help="Run folder: its config, reward model and judge."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML config.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
) -> None:
    """Show every source's value and reason for one reply, the multiplier and the total."""
    settings = _settings(run, config, overrides or [])
    prompt = _prompt(context, message)
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from repo_ray.models.loading import ModelNotFoundError
    from repo_ray.rewards.render import render_score
    from repo_ray.rewards.tuned import CheckpointError
    from repo_ray.serving.scoring import score_reply

    disable_progress_bar()
    with user_errors(CheckpointError, ModelNotFoundError):
        scores, reward, notes = score_reply(settings, prompt, reply)
    console = Console()
    console.print(render_score(reply, scores, reward, settings.enhancement.n))
    for note in notes:
        console.print(f"note: {note}", markup=False)
    if reward is None:
        raise typer.Exit(1)


def _settings(run: Path | None, config: Path | None, overrides: list[str]) -> Config:
    """The config; a run's own checkpoints are filled in where it names none."""
    if run is None:
        return load_config(config, overrides)
    if config is not None:
        fail("--run and --config exclude each other: the run has its own config")
    saved = run / "config.yaml"
    if not saved.is_file():
        fail(f"{run}: not a run folder: no config.yaml in it")
    from repo_ray.pipeline.run_folder import RunFolder

    folder, given = RunFolder(run.resolve()), load_config(saved)
    extra = []
    if given.reward_model.checkpoint is None and folder.reward_model.is_dir():
        extra.append(f"reward_model.checkpoint={json.dumps(str(folder.reward_model))}")
    local = given.judge.kind == "local" and given.judge.checkpoint is None
    if local and folder.judge.is_dir():
        extra.append(f"judge.checkpoint={json.dumps(str(folder.judge))}")
    return load_config(saved, [*extra, *overrides])


def _prompt(context: str, message: str | None) -> Any:
    from repo_ray.records import Message, Prompt

    origin = "--context"
    text = context
    if not context.lstrip().startswith("{"):
        origin = context
        try:
            text = Path(context).read_text(encoding="utf-8")
        except OSError as error:
            fail(f"--context {context}: neither JSON nor a readable file: {error.strerror}")
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"{origin}: not valid JSON: {error}")
    if not isinstance(row, dict):
        fail(f"{origin}: expected a JSON object, found {type(row).__name__}")
    facts, turns = (row.get("context") or {}, row["messages"]) if "messages" in row else (row, [])
    try:
        facts = json.loads(facts) if isinstance(facts, str) else facts
        messages = [Message(turn["role"], turn["content"]) for turn in turns]
    except (ValueError, RecursionError) as error:
        fail(f"{origin}: context: not valid JSON: {error}")
    except (KeyError, TypeError):
        fail(f"{origin}: messages: expected a list of objects with role and content")
    if message is not None:
        messages.append(Message("user", message))
    if not messages:
        fail("what does the reply answer? Give --message, or `messages` in --context")
    return Prompt("score", tuple(messages), facts)
