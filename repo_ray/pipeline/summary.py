"""`summary.json`: what the run did, in numbers that can be checked against its files."""

from __future__ import annotations

import platform
import threading
from importlib.metadata import version
from types import TracebackType

import psutil

GIB = 2**30


class MemoryWatch:
    """Samples this machine's memory in use while it is open; all processes together."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._done = threading.Event()
        self._before = self._used()
        self._peak = self._before
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak_gib(self) -> float:
        """Most memory in use beyond what was in use at the start, GiB (driver's machine)."""
        return (self._peak - self._before) / GIB

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            self._peak = max(self._peak, self._used())

    @staticmethod
    def _used() -> int:
        memory = psutil.virtual_memory()
        return int(memory.total - memory.available)


def software() -> dict[str, str]:
    """Versions of what computes."""
    names = ["torch", "transformers", "peft", "deepspeed", "ray", "openai", "pyarrow"]
    found = {name: version(name) for name in names}
    return {"python": platform.python_version(), **found}
