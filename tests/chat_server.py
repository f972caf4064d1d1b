"""A chat-completions server that answers by a script, well or badly; clients' tests share it."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ChatServer:
    """Answers with its `script`, one handler per request; the last one repeats."""

    def __init__(self) -> None:
        self.script: list[Handler] = []
        self.requests: list[dict[str, Any]] = []
        #: When each request came (`time.monotonic`), and how many were open at once at most.
        self.times: list[float] = []
        self.open = self.most_open = 0
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        self.http = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.http.make_url("/v1"))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        self.requests.append(await request.json())
        handler = self.script[min(len(self.requests), len(self.script)) - 1]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0.005)
            return await handler(request)
        finally:
            self.open -= 1


@asynccontextmanager
async def running_server() -> AsyncIterator[ChatServer]:
    server = ChatServer()
    await server.http.start_server()
    try:
        yield server
    finally:
        await server.http.close()


def completion(
    content: Any,
    finish_reason: str = "stop",
    *,
    usage: tuple[int, int] | None = None,
    **message: Any,
) -> web.Response:
    """A well-formed chat completion; `usage` is the tokens of prompt and answer."""
    text = content if isinstance(content, str) else json.dumps(content)
    message = {"role": "assistant", "content": text, "refusal": None} | message
    choice = {"index": 0, "finish_reason": finish_reason, "message": message, "logprobs": None}
    body: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    if usage is not None:
        counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        body["usage"] = {**counted, "total_tokens": sum(usage)}
    return web.json_response(body)


def says(content: Any, finish_reason: str = "stop", **options: Any) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return completion(content, finish_reason, **options)

    return handle


def status(code: int, text: str = "", **headers: str) -> Handler:
    """An error; clients that retry by themselves are asked to do so at once."""
    named = {"retry-after-ms": "1"} | {k.replace("_", "-"): v for k, v in headers.items()}

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": text}}, status=code, headers=named)

    return handle


async def drip(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for two seconds, and never an answer."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for _ in range(20):
        await response.write(b" ")
        await asyncio.sleep(0.1)
    return response


def endless(code: int = 200) -> Handler:
    """A body that goes on until the client has had enough."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=code, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
        return response

    return handle


def bomb(mib: int) -> Handler:
    """A small body that decompresses to `mib` MiB."""
    packer = zlib.compressobj(wbits=31)
    body = b"".join([*(packer.compress(b" " * 2**20) for _ in range(mib)), packer.flush()])

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return web.Response(body=body, headers=headers)

    return handle


async def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def not_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>welcome</html>", content_type="text/html")


async def no_choices(request: web.Request) -> web.StreamResponse:
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
    return web.json_response(body)
