"""Checks of this machine that need neither Ray nor a model."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import shutil
from pathlib import Path

from repo_ray.config import Config, environment
from repo_ray.doctor.check import Check
from repo_ray.planning import (
    Architecture,
    ArchitectureError,
    Cluster,
    PlanError,
    plan,
    read_architecture,
)

#: vLLM's processes exchange tensors through /dev/shm, and Ray puts its object store there.
SHM_GIB = 2.0
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def versions(lock: Path, inputs: Path) -> Check:
    """Installed packages against `lock`, and torch against the pins in `inputs`."""
    name = "versions"
    pins = dict(_PIN.findall(_read(inputs))) | dict(_PIN.findall(_read(lock)))
    if not pins:
        return Check(name, "warn", f"no lock at {lock}", "Run from a checkout, or give --lock")
    missing, other = [], []
    for package, wanted in pins.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
        else:
            if found.partition("+")[0] != wanted.partition("+")[0]:
                other.append(f"{package} {found} (locked: {wanted})")
    if missing:
        return Check(
            name, "fail", f"{len(missing)} packages missing: {_some(missing)}", "make setup"
        )
    if other:
        return Check(
            name,
            "warn",
            f"{len(other)} of {len(pins)} packages are not the locked ones: {_some(other)}",
            "make setup",
        )
    return Check(name, "ok", f"all {len(pins)} packages as locked")


def system_library(config: Config) -> Check:
    """vLLM's CPU build links libnuma, which no Python package brings."""
    if config.rollout.pool.gpus:
        return Check("libnuma", "ok", "not needed on GPUs")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        return Check(
            "libnuma", "fail", "libnuma.so.1 is missing", "Debian, Ubuntu: apt install libnuma1"
        )
    return Check("libnuma", "ok", "found")


def threads(config: Config) -> Check:
    """Threads per process against the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    wanted = {
        "learner": config.learner.threads,
        "rollout": config.rollout.pool.threads,
        "reward_model": config.reward_model.pool.threads,
    }
    found = f"{cores} cores; threads " + ", ".join(f"{k} {v}" for k, v in wanted.items())
    over = [key for key, count in wanted.items() if count > cores]
    if over:
        return Check(
            "threads",
            "warn",
            found,
            f"{', '.join(over)}: more threads than cores make everything slower",
        )
    return Check("threads", "ok", found)


def resources(config: Config, cluster: Cluster) -> Check:
    """Whether the plan of `config` fits `cluster`."""
    try:
        architecture: Architecture = read_architecture(config.model.path)
    except ArchitectureError as error:
        return Check("resources", "warn", f"not planned: {error}")
    try:
        planned = plan(config, architecture, cluster)
    except (PlanError, ArchitectureError) as error:
        return Check("resources", "fail", str(error), "repo-ray plan shows where memory goes")
    main = sum(p.bundle.device_bytes for p in planned.places if not p.gpus) / 2**30
    gpus = len({(p.node, g) for p in planned.places for g in p.gpus})
    return Check(
        "resources",
        "ok",
        f"{len(planned.places)} actors fit: {main:.1f} of {cluster.memory_gib:g} GiB, {gpus} GPUs",
    )


def shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Free space in /dev/shm; containers give 64 MiB unless asked."""
    if not folder.is_dir():
        return Check("/dev/shm", "warn", f"{folder} does not exist on this system")
    free = shutil.disk_usage(folder).free / 2**30
    found = f"{free:.1f} GiB free"
    if free < SHM_GIB:
        return Check(
            "/dev/shm",
            "fail",
            found,
            f"At least {SHM_GIB:g} GiB are needed: docker run --shm-size=8g, or an emptyDir with "
            "medium Memory on Kubernetes",
        )
    return Check("/dev/shm", "ok", found)


def token_auth(home: Path) -> Check:
    """Ray's token authentication: without it, whoever reaches the dashboard runs code."""
    mode = environment("RAY_AUTH_MODE")
    path = environment("RAY_AUTH_TOKEN_PATH")
    file = Path(path) if path else home / ".ray" / "auth_token"
    token = environment("RAY_AUTH_TOKEN") is not None or file.is_file()
    if mode == "token" and token:
        return Check("token auth", "ok", "on, with a token")
    if mode == "token":
        return Check(
            "token auth",
            "fail",
            f"RAY_AUTH_MODE is token, but there is no {file}",
            "ray get-auth-token --generate, and the same file on every node",
        )
    if mode == "disabled":
        return Check(
            "token auth",
            "warn",
            "disabled",
            "Anybody who reaches the dashboard can run code: set RAY_AUTH_MODE=token",
        )
    has = "a token exists" if token else "there is no token yet"
    return Check(
        "token auth",
        "warn",
        f"RAY_AUTH_MODE is not set; {has}",
        "An embedded cluster turns it on by itself; for ray start and ray job submit "
        "export RAY_AUTH_MODE=token",
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
