"""A run and the end of its cluster, with plain sockets in the place of head and node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from repo_ray.pipeline import cluster
from repo_ray.pipeline.cluster import ClusterLostError, while_cluster_lives
from repo_ray.pipeline.signals import Stopped

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEAD_LOST_AFTER_S", 1.0)
    monkeypatch.setattr(cluster, "HOLD_S", 0.2)
    monkeypatch.setattr(cluster, "RECONNECT_S", 0.05)


class Server:
    """Accepts connections and keeps them, until it ends with all of them."""

    def __init__(self) -> None:
        self.address = ""
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def _keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await reader.read()
        finally:
            self._open.discard(writer)
            writer.close()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._keep, "127.0.0.1", port)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    def end(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[Server, Server]]:
    head, node = Server(), Server()
    await head.start()
    await node.start()
    try:
        yield head, node
    finally:
        head.end()
        node.end()


async def run(
    head: Server, node: Server, work: Callable[[], Awaitable[str]], *, tidied: list[str]
) -> str:
    async def main() -> str:
        try:
            return await work()
        finally:
            tidied.append("tidied")

    watched = while_cluster_lives(main(), head.address, node.address)
    return await asyncio.wait_for(watched, LIMIT_S)


async def test_the_result_and_the_errors_of_the_work_pass_through() -> None:
    async def fails() -> str:
        raise LookupError("row 7")

    async def works() -> str:
        await asyncio.sleep(0.5)  # several connections long
        return "done"

    async with servers() as (head, node):
        assert await run(head, node, works, tidied=[]) == "done"
        with pytest.raises(LookupError, match="row 7"):
            await run(head, node, fails, tidied=[])


@pytest.mark.parametrize("which", ["head", "node"])
async def test_work_that_hangs_ends_when_the_cluster_does(
    which: str, caplog: pytest.LogCaptureFixture
) -> None:
    tidied: list[str] = []
    async with servers() as (head, node):
        ends = head if which == "head" else node

        async def hangs() -> str:
            ends.end()
            await asyncio.sleep(LIMIT_S)
            return "never"

        with caplog.at_level(logging.WARNING), pytest.raises(ClusterLostError) as error:
            await run(head, node, hangs, tidied=tidied)
        assert head.address in str(error.value)
        assert "--resume" in str(error.value)
        # Ray may end the process at any moment now: it was said before anything else was tried.
        assert any("lost the Ray cluster" in r.message for r in caplog.records)
    assert tidied == ["tidied"]


async def test_an_error_because_of_the_lost_cluster_is_told_as_that() -> None:
    async with servers() as (head, node):

        async def fails() -> str:
            head.end()
            raise OSError("Broken pipe")

        with pytest.raises(ClusterLostError) as error:
            await run(head, node, fails, tidied=[])
        assert isinstance(error.value.__cause__, OSError)


async def test_a_stopped_run_stays_stopped() -> None:
    async with servers() as (head, node):

        async def stops() -> str:
            head.end()
            raise Stopped

        with pytest.raises(Stopped):
            await run(head, node, stops, tidied=[])


async def test_a_head_that_comes_back_in_time_is_not_lost() -> None:
    async with servers() as (head, node):
        port = int(head.address.rpartition(":")[2])

        async def works() -> str:
            head.end()
            await asyncio.sleep(0.4)
            await head.start(port)
            await asyncio.sleep(1.5)
            return "done"

        assert await run(head, node, works, tidied=[]) == "done"
