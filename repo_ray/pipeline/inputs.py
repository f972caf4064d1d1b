"""The data sets that a config names, each as a local file: those behind URLs are downloaded."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from repo_ray.config import Config, ConfigError
from repo_ray.pipeline.run_folder import RunFolder, fingerprint
from repo_ray.storage.store import StorageError, fetch_file

#: Settings of `data` that name a data set, and its file name where it is built.
DATA_SETS = ("prompts", "preferences", "sft", "verdicts", "online", "badcases")


def local_inputs(config: Config, folder: RunFolder) -> dict[str, Path]:
    """The path of every data set that the config names.

    What is behind a URL is downloaded into the run folder once: a run that was started keeps its
    copy, whatever becomes of the original. Raises `ConfigError` naming key and URL.
    """
    found: dict[str, Path] = {}
    for key in DATA_SETS:
        given = getattr(config.data, key)
        if isinstance(given, str):
            suffix = PurePosixPath(urlsplit(given).path).suffix
            found[key] = folder.inputs / f"{key}-{fingerprint(given)}{suffix}"
            if not (found[key].exists() and folder.config.exists()):
                _download(key, given, found[key])
        elif given is not None:
            found[key] = given
    return found


def _download(key: str, url: str, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        fetch_file(url, partial)
    except StorageError as error:
        raise ConfigError(f"data.{key}: {error}") from error
    partial.replace(target)
