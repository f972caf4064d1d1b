"""`repo-ray chat`: play the hotelier against base, warm start and REPO."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from repo_ray.cli.console import RunOption, user_errors

_HELP = """You are the hotel. Commands:
  /base /warm /repo   switch the model (the last message is answered again)
  /rules              show the rule hits of the last reply
  /facts              show what the agent knows
  /stage NAME         set the stage (identify, present_evidence, ask, handle_objection,
                      confirm, close, escalate)
  /new [SEED]         another negotiation
  /quit"""


def command(
    run: RunOption,
    seed: Annotated[int, typer.Option(help="Which scenario to start with.")] = 0,
    greedy: Annotated[bool, typer.Option(help="Take the likeliest words.")] = False,
) -> None:
    """Play the hotel manager in the terminal; /base, /warm and /repo switch the model."""
    from transformers.utils.logging import disable_progress_bar

    from repo_ray.models.loading import ModelNotFoundError, resolve_model
    from repo_ray.rewards.rules import load_rules
    from repo_ray.serving.run_models import RunFolderError, open_run
    from repo_ray.serving.speaker import Speaker

    disable_progress_bar()
    with user_errors(RunFolderError, ModelNotFoundError):
        models = open_run(run)
        rules = load_rules(models.config.rules.path)
        typer.echo(f"loading {models.config.model.path} with {', '.join(models.stages)} ...")
        speaker = Speaker(models, resolve_model(models.config.model.path))
    Session(speaker, rules, models.stages, seed, greedy).loop()


class Session:
    """Reads lines until /quit or the end of input."""

    def __init__(
        self, speaker: Any, rules: Any, stages: tuple[str, ...], seed: int, greedy: bool
    ) -> None:
        self._speaker, self._rules, self._stages, self._greedy = speaker, rules, stages, greedy
        self._stage = stages[-1]
        self._new(seed)

    def loop(self) -> None:
        typer.echo(_HELP)
        self._facts()
        while True:
            try:
                line = input(f"[{self._stage}] hotel> ").strip()
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
            typer.echo(_HELP)

    def _new(self, seed: int) -> None:
        from repo_ray.serving.desk import Desk

        self._seed, self._desk = seed, Desk(seed)
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
