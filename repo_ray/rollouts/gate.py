"""Keeps samples and adapter pushes apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Many samples pass at once, a push passes alone.

    A push that waits goes first: new samples queue behind it, so that a steady stream of them
    cannot hold it up for ever.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._closed = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Inside while no push is running or waiting."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            # No await between a cancelled sample and its leaving: a second cancellation could
            # otherwise lose the count. The notice may come later, the count may not.
            self._inside -= 1
            async with self._changed:
                self._changed.notify_all()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Inside alone: waits for everyone to leave and keeps everyone out."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed)
            self._closed = True
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._inside == 0)
            yield
        finally:
            self._closed = False
            async with self._changed:
                self._changed.notify_all()
