"""How every command ends badly, and the options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML config; left out: all defaults.", dir_okay=False),
]
RunOption = Annotated[Path, typer.Option("--run", "-r", help="Run folder.", file_okay=False)]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value]...", help="Overrides of the config."),
]


def fail(message: str) -> NoReturn:
    """One message on stderr and exit status 2: the user's input is at fault."""
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(2)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns the given exceptions into `fail`; all others keep their traceback (exit status 1)."""
    try:
        yield
    except kinds as error:
        fail(str(error))
