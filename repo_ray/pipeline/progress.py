"""Tells a person what is happening in every phase: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

#: Seconds between two lines of the same phase where the output is not a terminal.
LOG_EVERY_S = 15.0


class Display:
    """Progress of the run's phases, one at a time."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._began = 0.0
        self._last_line = 0.0

    @contextmanager
    def phase(self, name: str, what: str) -> Iterator[None]:
        """Announces a phase and says at its end how long it took."""
        self._phase = name
        self._began = self._last_line = time.monotonic()
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("[bold]{task.fields[phase]:<12}"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            self._live = Progress(*columns, console=self.console, transient=True)
            self._task = self._live.add_task(what, total=None, phase=name)
            self._live.start()
        else:
            self.line(what)
        try:
            yield
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None
            self.seconds[name] = time.monotonic() - self._began

    def done(self, text: str, phase: str | None = None) -> None:
        """The result of the phase that just ended, as a line that stays."""
        name = phase or self._phase
        took = self.seconds[name]
        self.console.print(f"[green]✓[/] [bold]{name:<12}[/] {text} [dim]({took:.0f} s)[/]")

    def update(self, done: int | None, total: int | None, text: str) -> None:
        """Progress within the phase; cheap enough to call for each sample."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, total=total, description=text)
        elif time.monotonic() - self._last_line >= LOG_EVERY_S:
            self.line(f"{done} of {total}: {text}" if total else text)

    def heading(self, text: str) -> None:
        """One line above the phases of a part of the job."""
        self.console.print(f"\n[bold]{text}[/]")

    def line(self, text: str) -> None:
        """One line of the current phase that stays."""
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._began
        self.console.print(f"  [bold]{self._phase:<12}[/] {text} [dim]({elapsed:.0f} s)[/]")
