"""The endpoint judge against a real OpenAI-compatible server: vLLM's own, on the CPU."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repo_ray.config.rewards import JudgeConfig
from repo_ray.models.loading import resolve_model
from repo_ray.records import Message, Prompt, Score
from repo_ray.rewards.judge.endpoint import EndpointJudge, JudgeUnavailableError
from repo_ray.rewards.judge.rubric import Criterion, Rubric

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(900)]

START_LIMIT_S = 400
KEY = "key-of-the-test"
RUBRIC = Rubric(
    (
        Criterion("thanks", "The reply thanks the hotelier.", 10.0),
        Criterion("price", "The reply names a price.", -10.0),
    )
)
PROMPT = Prompt("p", (Message("user", "We can do 400 for the room."),))
REPLY = "Thank you, we accept 400 for the room."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeConfig]:
    """The running server's judge settings."""
    log = tmp_path_factory.mktemp("server") / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = resolve_model("smollm2-135m")
    words = f"-m vllm.entrypoints.openai.api_server --model {model} --served-model-name judge"
    options = f"--host 127.0.0.1 --port {port} --max-model-len 2048 --enforce-eager --api-key {KEY}"
    environment = os.environ | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "2",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *words.split(), *options.split()],
            env=environment,
            stdout=output,
            stderr=output,
        )
    config = JudgeConfig(
        kind="endpoint",
        base_url=f"http://127.0.0.1:{port}/v1",
        model="judge",
        request_timeout_s=120,
        max_retries=0,
    )
    try:
        _wait(process, config, log)
        yield config
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], config: JudgeConfig, log: Path) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < limit:
        try:
            asyncio.run(EndpointJudge(RUBRIC, config, KEY).check())
            return
        except JudgeUnavailableError:
            time.sleep(1)
    pytest.fail(f"the server did not start: {log.read_text()[-3000:]}")


def test_the_server_answers_in_the_schema_and_the_answer_becomes_a_score(
    server: JudgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is far too small to judge, so only what the protocol guarantees is asserted:
    structured JSON for every criterion, and a score that follows from it by the rubric."""
    contents: list[str] = []
    read = EndpointJudge._read

    def recording(self: EndpointJudge, content: str, reply: str) -> tuple[float, Any]:
        contents.append(content)
        return read(self, content, reply)

    monkeypatch.setattr(EndpointJudge, "_read", recording)

    async def judge() -> list[Score]:
        endpoint = EndpointJudge(RUBRIC, server, KEY)
        return [await endpoint.score(PROMPT, REPLY) for _ in range(2)]

    scores = asyncio.run(judge())
    assert contents, [s.error for s in scores]
    for score, content in zip(scores, contents, strict=True):
        answer = json.loads(content)
        assert set(answer) == {"thanks", "price"}
        assert all(isinstance(verdict["verdict"], bool) for verdict in answer.values())
        if score.valid:
            expected = 10.0 * answer["thanks"]["verdict"] - 10.0 * answer["price"]["verdict"]
            assert score.value == expected
            assert set(score.detail) == {"thanks", "price"}
        else:
            assert "no quote of the reply" in score.error
    assert contents[0] == contents[1], "temperature 0 must repeat"


def test_a_wrong_key_is_one_clear_error_without_the_key(server: JudgeConfig) -> None:
    with pytest.raises(JudgeUnavailableError, match="401") as caught:
        asyncio.run(EndpointJudge(RUBRIC, server, "wrong-key-123").check())
    assert "wrong-key-123" not in str(caught.value)
