"""Atomic checkpoints: a folder is either complete, with the hash of every file, or ignored."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT = "repo_ray.checkpoint/1"
MANIFEST = "manifest.json"
#: Key of a checkpoint's state: the mean reward of the steps since the one before it.
REWARD = "reward"
#: Key of a checkpoint's state: the name of the run that wrote it.
RUN = "run"
_PREFIX = "step-"
#: Endings of hidden neighbours: a checkpoint half written, and one that another one replaces.
_PARTIAL, _REPLACED = ".partial", ".replaced"


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names folder, file and reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: `step` updates are in it; `state` is the controller's part."""

    folder: Path
    step: int
    state: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What makes a folder a checkpoint. `files` maps their names to their SHA-256 (hex)."""

    step: int
    state: dict[str, Any]
    files: Mapping[str, str]


def save_checkpoint(
    root: Path, step: int, state: dict[str, Any], write: Callable[[Path], None], keep: int
) -> Checkpoint:
    """Writes `root/step-000012` through a hidden neighbour that is renamed at the end.

    `write(folder)` puts the learner's files there. The `keep` newest checkpoints stay, and the one
    with the highest `state[REWARD]`. If anything fails, the older ones are untouched and the error
    is raised. Wherever it is cut off, `latest_checkpoint` finds the old or the new one.
    """
    root.mkdir(parents=True, exist_ok=True)
    _tidy(root)
    final = root / f"{_PREFIX}{step:06d}"
    partial = root / f".{final.name}{_PARTIAL}"
    partial.mkdir()
    try:
        write(partial)
        files = {
            str(path.relative_to(partial)): file_sha256(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifest = {"format": FORMAT, "step": step, "state": state, "files": files}
        text = json.dumps({**manifest, "sha256": _fields_sha256(manifest)}, indent=1)
        (partial / MANIFEST).write_text(text, encoding="utf-8")
        for name in [*files, MANIFEST]:
            _sync(partial / name)
        if final.exists():  # left by an earlier run of the same step
            final.rename(root / f".{final.name}{_REPLACED}")
        partial.rename(final)
        _sync(root)
    except BaseException:
        with suppress(OSError):  # the error that counts is the first; the next save tidies up
            _tidy(root)
        raise
    _tidy(root)
    best = best_checkpoint(root)
    for old in _folders(root)[:-keep]:
        if old != best:
            shutil.rmtree(old)
    return Checkpoint(final, step, state)


def parse_manifest(text: bytes, origin: Path | str) -> Manifest:
    """Reads a manifest; `origin` names it in errors. Raises `CheckpointError`."""
    try:
        manifest = json.loads(text)
        found, noted = manifest.pop("format"), manifest.pop("sha256")
        step, state, files = (manifest[k] for k in ("step", "state", "files"))
        names = [PurePosixPath(name) for name in dict(files)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{origin}: not a readable checkpoint manifest: {error!r}") from None
    if found != FORMAT:
        raise CheckpointError(f"{origin}: format is {found!r}, this version reads {FORMAT!r}")
    if outside := [str(name) for name in names if name.is_absolute() or ".." in name.parts]:
        raise CheckpointError(f"{origin}: {outside[0]} is not a file of the checkpoint")
    if _fields_sha256({"format": found, **manifest}) != noted:
        raise CheckpointError(f"{origin}: its fields are not those that were written (SHA-256)")
    return Manifest(step, state, files)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads and verifies one checkpoint. Raises `CheckpointError`."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: not a readable checkpoint manifest: {error!r}") from None
    manifest = parse_manifest(text, path)
    for name, digest in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: listed in the manifest, but missing")
        if file_sha256(file) != digest:
            raise CheckpointError(f"{file}: its SHA-256 is not the manifest's; the file is damaged")
    return Checkpoint(folder, manifest.step, manifest.state)


def latest_checkpoint(root: Path, run: str | None = None) -> Checkpoint | None:
    """The newest checkpoint under `root`, verified; None if there is none.

    Raises `CheckpointError`, also where it is of another run than `run`.
    """
    folders = _folders(root)
    if not folders:
        return None
    found = load_checkpoint(folders[-1])
    # Checkpoints of earlier versions have no name.
    if run is not None and (owner := found.state.get(RUN, run)) != run:
        raise CheckpointError(
            f"{found.folder}: is of the run {owner!r}, not of {run!r}; its accounts and its place "
            "in the schedule are not this run's. Move it away"
        )
    return found


def best_checkpoint(root: Path) -> Path | None:
    """The folder with the highest reward, the newest of equals; None where none has one.

    The hashes of its files are not checked.
    """
    found: list[tuple[float, Path]] = []
    for folder in _folders(root):
        try:
            manifest = parse_manifest((folder / MANIFEST).read_bytes(), folder / MANIFEST)
        except (OSError, CheckpointError):
            continue  # damaged: it is no candidate, and not for here to delete
        reward = manifest.state.get(REWARD)
        if isinstance(reward, int | float) and math.isfinite(reward):
            found.append((reward, folder))
    return max(found)[1] if found else None


def _folders(root: Path) -> list[Path]:
    """Checkpoints, oldest first. One whose successor is not in place yet counts as that."""
    found = {path.stem[1:]: path for path in root.glob(f".{_PREFIX}*{_REPLACED}")}
    found |= {path.name: path for path in root.glob(f"{_PREFIX}*") if path.is_dir()}
    return [found[name] for name in sorted(found)]


def _tidy(root: Path) -> None:
    """Takes back what a save that was cut off left: a replaced checkpoint without its successor
    gets its name again, everything else goes."""
    for left in root.glob(f".{_PREFIX}*"):
        final = root / left.stem[1:]
        if left.suffix == _REPLACED and not final.exists():
            left.rename(final)
        else:
            shutil.rmtree(left)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fields_sha256(manifest: Mapping[str, Any]) -> str:
    """Hex digest of a manifest without its own digest, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
