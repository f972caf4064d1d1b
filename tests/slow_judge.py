"""An OpenAI-compatible endpoint that says no to every criterion after some time."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer


async def start_slow_judge(latency_s: float) -> TestServer:
    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        content = "yes"
        if "response_format" in asked:
            await asyncio.sleep(latency_s)
            names = asked["response_format"]["json_schema"]["schema"]["required"]
            no = '{"evidence": "", "verdict": false}'
            content = "{" + ", ".join(f'"{name}": {no}' for name in names) + "}"
        message = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}
        body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response(body | {"choices": [choice]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    server = TestServer(app)
    await server.start_server()
    return server
