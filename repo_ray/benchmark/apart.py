"""Parts of a job that each have a process of their own, so that none leaves anything to the next."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console


class PartFailedError(Exception):
    """Carries what the part wrote to its standard error."""


def run_apart(
    console: Console,
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs this Python with `arguments` and says so meanwhile. Raises `PartFailedError`."""
    with console.status(f"running {name}"):
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    if done.returncode:
        raise PartFailedError(f"{name} failed:\n{done.stderr}")
