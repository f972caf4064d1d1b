"""One request to an OpenAI-compatible endpoint: its time limit, its causes of failure, its key.

Judge, LLM evaluator and simulated hotelier ask different things and retry in their own ways. What
they do alike stands here, apart from all of them: evaluation shares nothing else with training.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
from openai.types.chat import ChatCompletion
from pydantic import ValidationError

if TYPE_CHECKING:
    import httpx2

#: Most bytes of an answer that are read, after decompression. What is asked for has a few thousand.
LONGEST_ANSWER = 2 * 2**20


@dataclass(eq=False)
class EndpointError(Exception):
    """One failed request.

    `cause` is one word for counting: `timeout`, `rate_limited`, `server_error`, `connection`,
    `rejected` (another HTTP 4xx), `refused` (by the model) or `malformed`. `retry`: asked again,
    it may succeed; `wait_s`: what the server asked us to wait, if it did.
    """

    cause: str
    message: str
    retry: bool = True
    wait_s: float | None = None

    def __str__(self) -> str:
        return f"{self.cause}: {self.message}"


def endpoint_client(
    base_url: str, key: str, max_retries: int, timeout_s: float
) -> openai.AsyncOpenAI:
    """A client that reads no answer beyond `LONGEST_ANSWER`; `complete` then says `malformed`."""
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key or "none",
        max_retries=max_retries,
        timeout=timeout_s,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_read]}),
    )


async def _read(response: httpx2.Response) -> None:
    """Reads the body before the client does, which knows no limit, those of errors included."""
    body = bytearray()
    async for part in response.aiter_bytes():  # decompressed in small parts
        body += part
        if len(body) > LONGEST_ANSWER:
            limit = f"the limit is {LONGEST_ANSWER // 2**20} MiB"
            raise EndpointError("malformed", f"HTTP {response.status_code}, too long: {limit}")
    response._content = bytes(body)  # where the client looks whether it has been read


async def complete(
    client: openai.AsyncOpenAI, key: str, limit_s: float, **request: Any
) -> ChatCompletion:
    """The answer to one chat request; it has at least one choice. Raises `EndpointError`.

    `limit_s` bounds the request with the client's own retries. `key` shows in no error.
    """
    try:
        # The client's own time-out is per read and per try; a server that drips would outlast it.
        async with asyncio.timeout(limit_s):
            raw = await client.chat.completions.with_raw_response.create(**request)
            body = raw.http_response.text
    except (TimeoutError, openai.APITimeoutError):
        raise EndpointError("timeout", f"no answer within {limit_s:.1f} s") from None
    except openai.APIConnectionError as error:
        reason = error.__cause__ or error
        raise EndpointError("connection", _redact(str(reason) or repr(reason), key)) from None
    except openai.APIStatusError as error:
        raise _status_failure(error, key) from None
    try:
        answer = ChatCompletion.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise EndpointError("malformed", f"no chat completion: {first}") from None
    if not answer.choices:
        raise EndpointError("malformed", "no chat completion: choices is empty")
    return answer


def text_of(answer: ChatCompletion, key: str) -> str:
    """The text of an answer. Raises `EndpointError` where the model or a filter refused it."""
    choice = answer.choices[0]
    if choice.message.refusal or choice.finish_reason == "content_filter":
        reason = _redact(choice.message.refusal or "content filter", key)
        raise EndpointError("refused", reason, retry=False)
    return choice.message.content or ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, section 10.2.3: seconds or a date)."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        parsed = email.utils.parsedate_tz(value)
        if parsed is None:
            return None
        seconds = email.utils.mktime_tz(parsed) - time.time()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _status_failure(error: openai.APIStatusError, key: str) -> EndpointError:
    status = error.status_code
    message = f"HTTP {status} {_redact(error.message, key)}"
    wait_s = retry_after(error.response.headers)
    if status == 429:
        return EndpointError("rate_limited", message, wait_s=wait_s)
    if status == 408:
        return EndpointError("timeout", message, wait_s=wait_s)
    if status >= 500:
        return EndpointError("server_error", message, wait_s=wait_s)
    return EndpointError("rejected", message, retry=False)


def _redact(text: str, key: str) -> str:
    """Servers repeat keys in their error messages."""
    return (text.replace(key, "***") if key else text)[:200]
