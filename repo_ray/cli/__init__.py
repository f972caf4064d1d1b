"""The command line. Each command has its own file; heavy libraries are imported when it runs.

Exit status: 0 done, 1 the run or a check failed, 2 the input was at fault (one message on
stderr, no traceback).
"""

from __future__ import annotations

import typer

from repo_ray.cli import (
    agree,
    chat,
    config,
    data,
    doctor,
    evaluate,
    export,
    judge,
    plan,
    rate,
    rescore,
    scale,
    score,
    status,
)
from repo_ray.cli.console import user_errors
from repo_ray.config import ConfigError

app = typer.Typer(
    help="REPO: reward-enhanced policy optimization as a Ray actor system.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("plan")(plan.command)
app.command("doctor")(doctor.command)
app.command("config")(config.command)
app.add_typer(data.app, name="data")
app.command("score")(score.command)
app.command("rescore")(rescore.command)
app.command("evaluate")(evaluate.command)
app.command("agree")(agree.command)
app.add_typer(judge.app, name="judge")
app.command("scale")(scale.scale)
app.command("status")(status.command)
app.command("chat")(chat.command)
app.command("export")(export.command)
app.command("rate")(rate.command)


def main() -> None:
    """Entry point of the `repo-ray` script."""
    with user_errors(ConfigError):
        app()
