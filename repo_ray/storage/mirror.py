"""The run folder on a storage service, so that a run outlives the machine of its driver.

Objects have the names of the run folder's files. A checkpoint there exists by its manifest, which
has the SHA-256 of every file: it is uploaded last and deleted first, so a transfer that stops
anywhere leaves the older checkpoint as the newest. The other files are uploaded before it,
`phases.json`, which says what is done, after what it speaks of.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from uuid import uuid4

from repo_ray.storage.store import StorageError, Store
from repo_ray.training.checkpoints import MANIFEST, CheckpointError, parse_manifest

CHECKPOINTS = "checkpoints"
#: Which process writes here.
OWNER = ".owner"
#: Files of the driver's machine alone.
LOCAL = ("cluster.json",)
#: What is done: uploaded after everything else.
PHASES = "phases.json"


class Mirror:
    """Uploads the run folder `root`. One process at a time owns what is stored."""

    def __init__(self, store: Store, root: Path, keep: int) -> None:
        """`keep`: how many checkpoints stay stored."""
        self.store, self.root = store, root
        self.step = 0
        self._keep = keep
        self._mark = uuid4().hex.encode()
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._lock = Lock()

    def claim(self) -> None:
        """Makes this process the owner; an older one can upload nothing more."""
        self.store.write(OWNER, self._mark)

    def sync(self) -> None:
        """Uploads files that are new or changed, then the newest checkpoint, and deletes
        checkpoints beyond the limit and what interrupted uploads left. `step` is then that
        checkpoint's.

        Raises `StorageError`; the next call tries what is missing again.
        """
        with self._lock:
            if self.store.read(OWNER) != self._mark:
                raise StorageError(
                    f"{self.store.url}: another process has taken this run over; nothing more is "
                    "uploaded from here"
                )
            try:
                for name, state in self._changed():
                    self.store.write(name, self.root / name)
                    self._uploaded[name] = state
                self._checkpoint()
            except (OSError, CheckpointError) as error:
                raise StorageError(
                    f"{self.store.url}: the run folder cannot be uploaded: {error}"
                ) from error

    def _changed(self) -> list[tuple[str, tuple[int, int]]]:
        """Files to upload with their state (mtime in ns, size in bytes), in order."""
        found = []
        for name in _files(self.root):
            try:
                status = (self.root / name).stat()
            except FileNotFoundError:  # gone since it was listed
                continue
            state = (status.st_mtime_ns, status.st_size)
            if self._uploaded.get(name) != state:
                found.append((name, state))
        return sorted(found, key=lambda item: (item[0] == PHASES, item[0]))

    def _checkpoint(self) -> None:
        folders = sorted((self.root / CHECKPOINTS).glob("step-*"))
        if not folders:
            return
        newest, name = folders[-1], f"{CHECKPOINTS}/{folders[-1].name}"
        text = (newest / MANIFEST).read_bytes()
        manifest = parse_manifest(text, newest / MANIFEST)
        stored = self.store.names(CHECKPOINTS)
        place = f"{name}/{MANIFEST}"
        if place not in stored or self.store.read(place) != text:
            if place in stored:  # of an earlier attempt at this step, whose files are replaced now
                self.store.delete(place)
            for file, digest in manifest.files.items():
                if self.store.write(f"{name}/{file}", newest / file) != digest:
                    raise CheckpointError(f"{newest / file}: its SHA-256 is not the manifest's")
            self.store.write(place, text)
        self.step = manifest.step
        self._tidy()

    def _tidy(self) -> None:
        stored = self.store.names(CHECKPOINTS)
        kept = complete_checkpoints(stored)[-self._keep :]
        for folder in sorted(set(filter(None, map(_checkpoint_of, stored))) - set(kept)):
            if f"{folder}/{MANIFEST}" in stored:
                self.store.delete(f"{folder}/{MANIFEST}")
            self.store.delete_folder(folder)


def restore(store: Store, root: Path) -> int:
    """Downloads the run with its newest complete checkpoint to `root`, which appears whole or not
    at all. Returns the checkpoint's step, 0 where there is none.

    Raises `StorageError`, also for a file that is not what the manifest says.
    """
    stored = store.names()
    checkpoints = complete_checkpoints(stored)
    step = 0
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for name in stored:
            if not name.startswith(f"{CHECKPOINTS}/") and _travels(name):
                store.fetch(name, partial / name)
        if checkpoints:
            step = _restore_checkpoint(store, checkpoints[-1], set(stored), partial)
        partial.chmod(0o755)
        partial.rename(root)
    except OSError as error:
        raise StorageError(f"{store.url}: cannot be restored to {root}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return step


def _restore_checkpoint(store: Store, folder: str, stored: set[str], root: Path) -> int:
    place = f"{store.url}/{folder}"
    advice = f"delete {place} to continue from an older checkpoint"
    text = store.read(f"{folder}/{MANIFEST}")
    try:
        manifest = parse_manifest(text, f"{place}/{MANIFEST}")
    except CheckpointError as error:
        raise StorageError(f"{error}; {advice}") from None
    for file, digest in manifest.files.items():
        name = f"{folder}/{file}"
        if name not in stored:
            raise StorageError(f"{place}/{file}: listed in the manifest, but missing; {advice}")
        if store.fetch(name, root / name) != digest:
            raise StorageError(
                f"{place}/{file}: its SHA-256 is not the manifest's, the object is damaged or was "
                f"replaced; {advice}"
            )
    (root / folder / MANIFEST).write_bytes(text)
    return manifest.step


def complete_checkpoints(names: Iterable[str]) -> list[str]:
    """Folders of the checkpoints that have a manifest, oldest first."""
    folders = ((name, _checkpoint_of(name)) for name in names)
    return sorted(f for name, f in folders if f is not None and name == f"{f}/{MANIFEST}")


def step_of(folder: str | Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(str(folder).rpartition("-")[2])


def _checkpoint_of(name: str) -> str | None:
    """The checkpoint folder that an object belongs to."""
    top, *rest = name.split("/")
    if top != CHECKPOINTS or len(rest) < 2 or not rest[0].startswith("step-"):
        return None
    return f"{CHECKPOINTS}/{rest[0]}"


def _travels(name: str) -> bool:
    """Whether a file of the run folder is stored: not what is hidden, half written or local."""
    parts = name.split("/")
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and not name.endswith(".partial") and name not in LOCAL


def _files(root: Path) -> Iterator[str]:
    """Names of the files below `root` that are stored, checkpoints apart."""
    for folder, folders, files in os.walk(root):
        place = Path(folder)
        if place == root and CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)
        for file in files:
            name = (place / file).relative_to(root).as_posix()
            if _travels(name):
                yield name
