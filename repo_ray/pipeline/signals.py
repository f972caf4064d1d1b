"""What a stop request (SIGTERM, Ctrl-C) does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):  # noqa: N818 - an outcome, not an error
    """The run was asked to stop; what is done is saved, `--resume` continues."""


@contextmanager
def stop_requests(callback: Callable[[], object]) -> Iterator[None]:
    """Calls `callback` in the running event loop for SIGTERM and SIGINT while it is open."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
