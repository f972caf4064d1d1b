import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from repo_ray.planning.speeds import H100

ROOT = Path(__file__).parents[2]


def repo_ray(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from repo_ray.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )


def test_help_is_quick_and_lists_the_commands():
    repo_ray("--help")  # fills the byte-code cache
    start = time.monotonic()
    result = repo_ray("--help")
    # Far below the seconds that importing torch, Ray or vLLM takes, even on a busy machine.
    assert time.monotonic() - start < 3
    assert result.returncode == 0
    for command in (
        "plan",
        "doctor",
        "config",
        "data",
        "score",
        "rescore",
        "scale",
        "status",
        "chat",
        "export",
        "rate",
    ):
        assert command in result.stdout


def test_help_imports_no_heavy_library():
    code = (
        "import sys, repo_ray.cli; "
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


def test_plan_prints_memory():
    result = repo_ray(
        *("plan", "--config", "jobs/configs/qwen3-32b.yaml", "--nodes", "2", "--gpus", "8"),
        *("--gpu-memory-gib", "80", "--cpus", "96", "--memory-gib", "1000"),
    )
    assert result.returncode == 0, result.stderr
    assert "activations" in result.stdout
    assert "bottleneck  " in result.stdout
    assert "ASSUMED for H100" in result.stdout


def test_plan_divides_gpus_with_the_users_own_speeds(tmp_path):
    speeds = tmp_path / "mine.yaml"
    mine = H100.model_copy(update={"origin": "mine", "merge_bandwidth": 1e15})
    speeds.write_text(yaml.safe_dump(mine.model_dump()))
    result = repo_ray(
        *("plan", "--config", "jobs/configs/qwen3-32b.yaml", "--gpus", "8", "--cpus", "96"),
        *("--memory-gib", "1000", "--gpus-total", "4,16", "--speeds", str(speeds)),
    )
    assert result.returncode == 0, result.stderr
    assert "speeds      mine" in result.stdout
    four, sixteen = [line for line in result.stdout.splitlines() if line[:2] in ("4 ", "16")]
    assert "does not fit: learner" in four
    assert "publication: loading" not in sixteen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "--config", "missing.yaml"), ["missing.yaml", "cannot be read"]),
        (("plan", "run.nmae=x"), ["run.nmae", "unknown key"]),
        (("plan", "--gpus", "8", "--gpus-total", "8,many"), ["--gpus-total", "8,16,32"]),
        (("plan", "--gpus-total", "8"), ["--gpus-total", "--gpus"]),
        (("plan", "--write-speeds", "x.yaml"), ["--from-run"]),
        (("plan", "--from-run", "jobs"), ["jobs", "not a run folder"]),
        (("plan", "--reply-tokens", "9999"), ["--reply-tokens", "sampling.max_new_tokens"]),
        (("plan", "--speeds", "jobs/configs/quickstart.yaml"), ["run", "unknown key"]),
        (
            (
                *("plan", "--config", "jobs/configs/qwen3-32b.yaml", "--nodes", "2"),
                *("--gpus", "8", "--gpu-memory-gib", "24"),
            ),
            ["does not fit", "24 GiB"],
        ),
    ],
)
def test_user_errors_are_one_message_and_status_2(arguments, words):
    result = repo_ray(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


def test_config_prints_a_config_that_loads_again(tmp_path):
    result = repo_ray("config", "--resolved", "--config", "jobs/configs/qwen3-32b.yaml")
    file = tmp_path / "again.yaml"
    file.write_text(result.stdout)
    again = repo_ray("config", "--resolved", "--config", str(file))
    assert again.stdout == result.stdout
