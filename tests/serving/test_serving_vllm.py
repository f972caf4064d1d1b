"""The line that an export prints starts a server that answers with the exported policy."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch

from repo_ray.config import dump_config
from repo_ray.config.load import validate
from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import adapter_parameters, add_adapters, export_adapter
from repo_ray.models.loading import load_base
from repo_ray.records import Message
from repo_ray.serving.export import export_run
from repo_ray.serving.run_models import open_run
from repo_ray.serving.speaker import Speaker

START_LIMIT_S = 400


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "demo"
    sections = {
        "run": {"name": "demo"},
        "model": {"path": str(tiny_model), "dtype": "float32", "attention": "eager", "max_prompt_tokens": 64},
        "lora": {"rank": 4, "alpha": 4},
        "sampling": {"max_new_tokens": 8},
        "rollout": {"max_model_len": 128},
    }  # fmt: skip
    model = add_adapters(
        load_base(tiny_model, torch.float32, "eager"), ["policy"], LoraShape(rank=4, alpha=4)
    )
    torch.manual_seed(3)
    for parameter in adapter_parameters(model, "policy"):
        parameter.data.normal_(std=0.3)
    folder = root / "adapters" / "policy"
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(export_adapter(model, "policy"))
    (root / "config.yaml").write_text(dump_config(validate(sections, "test")))
    return open_run(root)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("merged", [False, True])
def test_the_printed_line_serves_the_exported_policy(run, tiny_model, tmp_path, merged):
    lines = export_run(run, "repo", tiny_model, tmp_path / "out", merged)
    words = shlex.split(lines.module)
    # Both lines go through one parser of vLLM; they differ in how the model is named.
    assert words[4:] == shlex.split(lines.vllm_serve)[2:]
    words[0] = sys.executable
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    options = ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "float32"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen([*words, *options], env=environment, stdout=log, stderr=log)
    try:
        wait_until_ready(server, port, tmp_path / "log")
        answer = post(
            port,
            {
                "model": str((tmp_path / "out").resolve()) if merged else "demo",
                "messages": [{"role": "user", "content": "What can you offer?"}],
                "temperature": 0,
                "max_tokens": 8,
            },
        )
    finally:
        server.terminate()
        server.wait(60)
    said = answer["choices"][0]["message"]["content"].strip()
    speaker = Speaker(run, tiny_model)
    messages = [Message("user", "What can you offer?")]
    assert said == speaker.reply("repo", messages, greedy=True)
    assert said != speaker.reply("base", messages, greedy=True)


def wait_until_ready(server, port, log):
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(1)
    pytest.fail(f"no answer within {START_LIMIT_S} s: {log.read_text()[-3000:]}")


def post(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)
