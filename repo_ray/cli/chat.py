"""`repo-ray chat`: play the other side against base, warm start and REPO."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from repo_ray.cli.console import RunOption, user_errors

_HELP = """You are the {who}. Commands:
  /base /warm /repo   switch the model (the last message is answered again)
  /rules              show the rule hits of the last reply
  /facts              show what the agent knows
  /stage NAME         set the stage (identify, present_evidence, ask, handle_objection,
                      confirm, close, escalate); hotel negotiation only
  /new [SEED]         another conversation
  /quit"""


def command(
    run: RunOption,
    seed: Annotated[int, typer.Option(help="Which scenario to start with.")] = 0,
    greedy: Annotated[bool, typer.Option(help="Take the likeliest words.")] = False,
) -> None:
    """Play the hotel manager, or the customer of your own task, in the terminal; /base, /warm and
    /repo switch the model."""
    from transformers.utils.logging import disable_progress_bar

    from repo_ray.data.reader import DataError
    from repo_ray.models.loading import ModelNotFoundError, resolve_model
    from repo_ray.pipeline.inputs import local_inputs
    from repo_ray.rewards.rules.sandbox import RuleRunner
    from repo_ray.serving.run_models import RunFolderError, open_run
    from repo_ray.serving.speaker import Speaker

    disable_progress_bar()
    with user_errors(RunFolderError, ModelNotFoundError, DataError):
        models = open_run(run)
        rules = RuleRunner(models.config.rules.path, models.config.rules.time_limit_s)
        who, open_desk = _desks(local_inputs(models.config, models.folder).get("prompts"))
        typer.echo(f"loading {models.config.model.path} with {', '.join(models.stages)} ...")
        speaker = Speaker(models, resolve_model(models.config.model.path))
    try:
        Session(speaker, rules, models.stages, who, open_desk, seed, greedy).loop()
    finally:
        rules.close()


def _desks(prompts: Path | None) -> tuple[str, Callable[[int], Any]]:
    """Whom the person plays, and what opens a conversation by its seed. Raises `DataError`."""
    from repo_ray.data.reader import read_prompts
    from repo_ray.rewards.rules.facts import facts
    from repo_ray.serving.desk import Desk
    from repo_ray.serving.prompt_desk import PromptDesk

    rows = read_prompts(prompts) if prompts is not None else []
    if not rows or any(facts(row) is not None for row in rows):
        return "hotel", Desk
    return "other side", partial(PromptDesk, rows)


class Session:
    """Reads lines until /quit or the end of input."""

    def __init__(
        self,
        speaker: Any,
        rules: Any,
        stages: tuple[str, ...],
        who: str,
        open_desk: Callable[[int], Any],
        seed: int,
        greedy: bool,
    ) -> None:
        self._who, self._open_desk = who, open_desk
        self._speaker, self._rules, self._stages, self._greedy = speaker, rules, stages, greedy
        self._stage = stages[-1]
        self._new(seed)

    def loop(self) -> None:
        typer.echo(_HELP.format(who=self._who))
        self._facts()
        while True:
            try:
                line = input(f"[{self._stage}] {self._who}> ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line == "/quit":
                return
            if line.startswith("/"):
                self._command(*line[1:].split(maxsplit=1))
            elif line:
                self._desk.hear(line)
                self._speak()

    def _command(self, name: str = "", argument: str = "") -> None:
        if name in ("base", "warm", "repo"):
            if name not in self._stages:
                typer.echo(f"this run has only {', '.join(self._stages)}")
                return
            self._stage = name
            if self._last is not None:
                self._desk.take_back()
                self._speak()
        elif name == "rules":
            self._show_rules()
        elif name == "facts":
            self._facts()
        elif name == "new":
            self._new(int(argument) if argument.isdecimal() else self._seed + 1)
            self._facts()
        elif name == "stage":
            try:
                self._desk.set_stage(argument)
            except ValueError:
                typer.echo(f"no stage {argument!r}")
        else:
            typer.echo(_HELP.format(who=self._who))

    def _new(self, seed: int) -> None:
        self._seed, self._desk = seed, self._open_desk(seed)
        self._last: tuple[Any, str] | None = None

    def _facts(self) -> None:
        typer.echo(f"\nThe agent knows:\n{self._desk.facts()}\n")

    def _speak(self) -> None:
        prompt = self._desk.prompt()
        reply = self._speaker.reply(self._stage, prompt.messages, greedy=self._greedy)
        self._last = (prompt, reply)
        typer.echo(f"agent ({self._stage})> {reply}")
        self._desk.answer(reply)

    def _show_rules(self) -> None:
        if self._last is None:
            typer.echo("there is no reply yet")
            return
        score = self._rules.score(*self._last)
        for name, detail in score.detail.items():
            typer.echo(f"  {detail.points:+g}  {name}: {detail.reason}")
        typer.echo(f"  {score.value:+g} in all" if score.valid else f"  invalid: {score.error}")
