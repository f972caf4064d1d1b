"""Log lines that say which run they belong to, whose they are and at which step."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(run)s %(role)s step %(step)s %(name)s: %(message)s"


class Context(logging.Filter):
    """Gives every record that passes a handler `run`, `role` and `step`.

    `role` is `driver` or an actor's name, `step` the number of updates behind what the process
    does: those of the learner, those in an engine's adapter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run = "-"
        self.role = "-"
        self.step: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        record.run, record.role = self.run, self.role
        record.step = "-" if self.step is None else self.step
        return True


#: This process's.
CONTEXT = Context()


def at_step(step: int) -> None:
    """Says where this process is from now on. Actors call it rather than touch `CONTEXT`: Ray
    pickles an actor's class by value, with a copy of every object that its methods name."""
    CONTEXT.step = step


def in_context(handler: logging.Handler) -> logging.Handler:
    """Makes a handler write this process's context into its lines."""
    handler.setFormatter(logging.Formatter(FORMAT))
    # On the handler: a logger's filter would not see the records of the loggers below it.
    handler.addFilter(CONTEXT)
    return handler
