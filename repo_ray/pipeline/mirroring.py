"""The run folder's copy on a storage service: checked and restored first, then kept up to date."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from repo_ray.config import Config, ConfigError
from repo_ray.pipeline.run_folder import RunFolder, run_root
from repo_ray.pipeline.signals import Stopped
from repo_ray.storage.mirror import Mirror, complete_checkpoints, restore, step_of
from repo_ray.storage.store import StorageError, Store, below

log = logging.getLogger(__name__)


def open_mirror(config: Config, resume: bool, tell: Callable[[str], object]) -> Mirror | None:
    """The run's copy on `run.storage`, which is found writable; None without that setting.

    To resume a run that is not on this machine, it is restored first. Raises `ConfigError` where
    the storage cannot be used, holds this run though it is not resumed, or holds more than the run
    folder does.
    """
    if config.run.storage is None:
        return None
    folder = RunFolder(run_root(config))
    try:
        store = Store(below(config.run.storage, config.run.name))
        store.probe()
        stored = store.names()
        if "config.yaml" in stored and not folder.config.exists():
            if not resume:
                raise ConfigError(
                    f"{store.url} exists already: continue it with --resume, or choose another "
                    "run.name"
                )
            step = restore(store, folder.root)
            tell(f"  restored from {store.url}, {step} steps made")
    except StorageError as error:
        raise ConfigError(f"run.storage: {error}") from error
    newest = max(map(step_of, complete_checkpoints(stored)), default=0)
    here = max(map(step_of, folder.checkpoints.glob("step-*")), default=0)
    if newest > here:
        raise ConfigError(
            f"{folder.root} has {here} steps, {store.url} has {newest}: the run went on elsewhere. "
            "Move the folder away to restore the run from there"
        )
    return Mirror(store, folder.root, config.run.keep_checkpoints)


@contextmanager
def mirrored(mirror: Mirror | None) -> Iterator[None]:
    """Uploads what is new when the run ends, however it ends; None: does nothing.

    Raises `StorageError` where a run that finished, or stopped with everything saved, cannot be
    uploaded; after another error that failure is logged.
    """
    if mirror is None:
        yield
        return
    mirror.claim()
    try:
        yield
    except Stopped:
        _finish(mirror)
        raise
    except BaseException:
        try:
            mirror.sync()
        except StorageError as error:
            log.error("the last upload failed: %s", error)
        raise
    _finish(mirror)


def _finish(mirror: Mirror) -> None:
    try:
        mirror.sync()
    except StorageError as error:
        raise StorageError(f"{error}; everything is in {mirror.root}") from error


class Uploads:
    """Uploads while the run goes on: in a thread, one at a time. A failure is counted and logged,
    and what it missed is part of the next upload. Without a mirror nothing is done.
    """

    def __init__(self, mirror: Mirror | None) -> None:
        self._mirror = mirror
        self._task: asyncio.Task[None] | None = None
        self._failed = 0

    async def start(self) -> None:
        """Starts to upload what is new, after the upload that is under way: its checkpoint is
        still on disk then, and no longer for certain when the next is written.
        """
        if self._mirror is None:
            return
        if self._task is not None:
            await asyncio.shield(self._task)
        self._task = asyncio.ensure_future(self._upload(self._mirror))

    def metrics(self) -> dict[str, int]:
        """Uploads that failed so far, and how many steps the newest stored checkpoint has."""
        if self._mirror is None:
            return {}
        return {
            "storage/failed_uploads": self._failed,
            "storage/checkpoint_step": self._mirror.step,
        }

    async def _upload(self, mirror: Mirror) -> None:
        try:
            await asyncio.to_thread(mirror.sync)
        except StorageError as error:
            self._failed += 1
            log.warning("upload failed, the next one tries again: %s", error)
