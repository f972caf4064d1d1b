"""Dynamic batching: single requests in, batched calls of a blocking function out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class DynamicBatcher(Generic[Item, Result]):
    """Collects items for up to `max_wait_s`, or until their sizes reach `max_size`.

    One batch runs at a time, in a thread of its own, so that the event loop stays free to
    collect the next one. If a batch raises, each of its items raises.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        size: Callable[[Item], int],
        max_size: int,
        max_wait_s: float,
    ) -> None:
        self._run = run
        self._size = size
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Result]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._worker: asyncio.Task[None] | None = None
        self._held: tuple[Item, asyncio.Future[Result]] | None = None

    async def submit(self, item: Item) -> Result:
        """The result for `item`, as soon as its batch is done."""
        if self._worker is None:
            self._worker = asyncio.ensure_future(self._loop())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, future))
        return await future

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._collect()
            try:
                results = await loop.run_in_executor(
                    self._thread, self._run, [item for item, _ in batch]
                )
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(results)} results for a batch of {len(batch)}")
            except Exception as error:  # handed to every caller, none is swallowed
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _collect(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        first = self._held or await self._queue.get()
        self._held = None
        batch = [first]
        total = self._size(first[0])
        deadline = asyncio.get_running_loop().time() + self._max_wait_s
        while total < self._max_size:
            wait = deadline - asyncio.get_running_loop().time()
            try:
                entry = (
                    self._queue.get_nowait()
                    if wait <= 0
                    else await asyncio.wait_for(self._queue.get(), wait)
                )
            except (TimeoutError, asyncio.QueueEmpty):
                break
            if total + self._size(entry[0]) > self._max_size:
                self._held = entry
                break
            batch.append(entry)
            total += self._size(entry[0])
        return batch
