"""What every endpoint client relies on; the clients' own tests drive it through their answers."""

from __future__ import annotations

import asyncio
import email.utils
import time
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from chat_server import (
    ChatServer,
    Handler,
    bomb,
    completion,
    drip,
    drop,
    endless,
    no_choices,
    not_json,
    running_server,
    says,
    status,
)

from repo_ray.endpoints import (
    LONGEST_ANSWER,
    EndpointError,
    complete,
    endpoint_client,
    retry_after,
    text_of,
)

KEY = "key-that-must-stay-secret"


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with running_server() as server:
        yield server


async def ask(server: ChatServer, handler: Handler, limit_s: float = 5.0) -> str:
    server.script = [handler]
    messages = [{"role": "user", "content": "hello"}]
    async with endpoint_client(server.url, KEY, 0, limit_s) as client:
        return text_of(await complete(client, KEY, limit_s, model="m", messages=messages), KEY)


async def test_an_answer_is_its_text(server: ChatServer) -> None:
    assert await ask(server, says("good day")) == "good day"


@pytest.mark.parametrize(
    ("handler", "cause", "retry"),
    [
        (status(429, "slower " + KEY), "rate_limited", True),
        (status(408), "timeout", True),
        (status(503), "server_error", True),
        (status(401, "no such key " + KEY), "rejected", False),
        (drop, "connection", True),
        (not_json, "malformed", True),
        (no_choices, "malformed", True),
        (says(None, refusal=f"not with {KEY}"), "refused", False),
        (says("", "content_filter"), "refused", False),
    ],
)
async def test_a_failure_has_its_cause_and_never_the_key(
    server: ChatServer, handler: Handler, cause: str, retry: bool
) -> None:
    with pytest.raises(EndpointError) as caught:
        await ask(server, handler)
    assert (caught.value.cause, caught.value.retry) == (cause, retry)
    assert str(caught.value).startswith(f"{cause}: ")
    assert KEY not in str(caught.value)
    assert len(caught.value.message) < 300


async def test_the_limit_holds_for_a_server_that_drips(server: ChatServer) -> None:
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"timeout: no answer within 0\.3 s"):
        await ask(server, drip, limit_s=0.3)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    "handler",
    [endless(), endless(500), endless(404), bomb(64), says("x" * LONGEST_ANSWER)],
    ids=["endless", "endless error", "endless refusal", "gzip bomb", "long"],
)
async def test_an_answer_is_read_no_further_than_the_limit(
    server: ChatServer, handler: Handler
) -> None:
    flight = 16
    tracemalloc.start()  # the server's memory counts as well
    try:
        asked = (ask(server, handler, limit_s=60) for _ in range(flight))
        errors = await asyncio.gather(*asked, return_exceptions=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    for error in errors:
        assert isinstance(error, EndpointError)
        assert error.cause == "malformed"
        assert "too long: the limit is 2 MiB" in error.message
    print(f"peak {peak / 2**20:.0f} MiB for {flight} requests")
    assert peak < 4 * flight * LONGEST_ANSWER


async def test_a_long_compressed_answer_within_the_limit_is_read(server: ChatServer) -> None:
    text = "word " * 100_000

    async def zipped(request: web.Request) -> web.StreamResponse:
        answer = completion(text)
        answer.enable_compression(web.ContentCoding.gzip)
        return answer

    assert await ask(server, zipped) == text


async def test_what_the_server_asks_to_wait_is_kept(server: ChatServer) -> None:
    with pytest.raises(EndpointError) as caught:
        await ask(server, status(503, Retry_After="7"))
    assert caught.value.wait_s == 7.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2.5", 2.5),
        ("-3", 0.0),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_reads_a_date_to_come() -> None:
    value = email.utils.formatdate(time.time() + 30, usegmt=True)
    seconds = retry_after({"retry-after": value})
    assert seconds is not None
    assert 25 < seconds <= 31
    assert retry_after({}) is None
