"""A folder of objects on a storage service, through pyarrow's file systems.

Every call is limited in time and every failure is a `StorageError`. Credentials are what the
service's own library finds: environment, its configuration files, the instance.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4

from pyarrow import fs

from repo_ray.config import environment

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds for a call, and bytes per second below which a transfer is given up.
CALL_S, SLOWEST = 60.0, 2**20
#: Seconds before a failed call is made again.
PAUSES_S: tuple[float, ...] = (1.0, 5.0)
#: Bytes read or written at once.
CHUNK = 8 * 2**20
#: File systems where an object appears when it is complete, and folders are only names.
OBJECT_STORES = ("s3", "gcs", "abfs")
#: What an s3:// URL may set, as in pyarrow's own URLs.
S3_OPTIONS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
#: Seconds. The S3 client's defaults, 1 and 3, give up on a server that is merely busy.
S3_CONNECT_S, S3_SILENCE_S = 10.0, 30.0


class StorageError(Exception):
    """The storage cannot be used. The message names the URL and the cause."""


class Store:
    """Objects below one URL. Names are relative to it, with `/` between their parts.

    Reading and writing is tried again after a pause. Every method raises `StorageError`.
    """

    def __init__(self, url: str) -> None:
        """Opens the folder at `url`, which need not exist."""
        self.url = url.partition("?")[0].rstrip("/")
        self._files, root = _bounded("opened", self.url, CALL_S, lambda: _open(url))
        self._root = root.rstrip("/")
        self._appears_whole = self._files.type_name in OBJECT_STORES

    def probe(self) -> None:
        """Writes, reads and deletes an object of its own, each once."""
        name = f".probe-{uuid4().hex}"
        path, url = self._path(name), f"{self.url}/{name}"
        _bounded("written", url, CALL_S, lambda: self._put(path, name.encode()))
        found = _bounded("read", url, CALL_S, lambda: self._all(path))
        if found != name.encode():
            raise StorageError(f"{url}: what was written is not what is read")
        _bounded("deleted", url, CALL_S, lambda: self._files.delete_file(path))

    def names(self, folder: str = "") -> list[str]:
        """Names of all objects, or of those below `folder`, in order."""
        base = self._path(folder) if folder else self._root
        selector = fs.FileSelector(base, allow_not_found=True, recursive=True)
        found = self._patiently(
            "listed", folder, CALL_S, lambda: self._files.get_file_info(selector)
        )
        prefix = f"{self._root}/"
        return sorted(info.path.removeprefix(prefix) for info in found if info.is_file)

    def read(self, name: str) -> bytes:
        """A small object's content."""
        path = self._path(name)
        return self._patiently("read", name, CALL_S, lambda: self._all(path))

    def write(self, name: str, content: bytes | Path) -> str:
        """Replaces an object by bytes or by a local file; returns the SHA-256 (hex) of what was
        sent. Readers see the old object or the new one."""
        path = self._path(name)
        try:
            size = content.stat().st_size if isinstance(content, Path) else len(content)
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be read: {error.strerror}") from None
        return self._patiently("written", name, _limit(size), lambda: self._put(path, content))

    def fetch(self, name: str, target: Path) -> str:
        """Downloads an object to the file `target`; returns its SHA-256 (hex)."""
        path = self._path(name)
        size = self._patiently("found", name, CALL_S, lambda: self._size(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        return self._patiently("read", name, _limit(size), lambda: self._get(path, target))

    def delete(self, name: str) -> None:
        path = self._path(name)
        self._patiently("deleted", name, CALL_S, lambda: self._files.delete_file(path))

    def delete_folder(self, name: str) -> None:
        """Deletes everything below `name`."""
        path = self._path(name)
        self._patiently("deleted", name, CALL_S, lambda: self._files.delete_dir(path))

    # --- one attempt each, in the thread of `_bounded` ----------------------------------

    def _put(self, path: str, content: bytes | Path) -> str:
        place = path if self._appears_whole else f"{path}.partial"
        if not self._appears_whole:
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
        # After an error, closing the stream may leave a part as if it were the whole: nobody
        # takes it for that, since the caller knows that it failed.
        with (
            content.open("rb") if isinstance(content, Path) else BytesIO(content) as source,
            self._files.open_output_stream(place, compression=None) as target,
        ):
            digest = _copy(source, target)
        if place != path:
            self._files.move(place, path)
        return digest

    def _get(self, path: str, target: Path) -> str:
        with (
            self._files.open_input_stream(path, compression=None) as source,
            target.open("wb") as file,
        ):
            return _copy(source, file)

    def _all(self, path: str) -> bytes:
        with self._files.open_input_stream(path, compression=None) as source:
            return bytes(source.read())

    def _size(self, path: str) -> int:
        info = self._files.get_file_info(path)
        if not info.is_file:
            raise FileNotFoundError("there is no such object")
        return info.size or 0

    def _path(self, name: str) -> str:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageError(f"{self.url}: {name!r} cannot be the name of an object below it")
        return f"{self._root}/{name}"

    def _patiently(self, verb: str, name: str, seconds: float, call: Callable[[], T]) -> T:
        url = f"{self.url}/{name}".rstrip("/")
        for pause in PAUSES_S:
            try:
                return _bounded(verb, url, seconds, call)
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise
                log.info("%s; again in %g s", error, pause)
                time.sleep(pause)
        return _bounded(verb, url, seconds, call)


def fetch_file(url: str, target: Path) -> None:
    """Downloads the one object at `url` to the file `target`. Raises `StorageError`."""
    place, mark, query = url.partition("?")
    folder, _, name = place.rpartition("/")
    Store(f"{folder}{mark}{query}").fetch(name, target)


def below(url: str, name: str) -> str:
    """The URL of the folder `name` below the folder at `url`."""
    place, mark, query = url.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{query}"


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the URL's path in it."""
    if urlsplit(url).scheme != "s3":
        return fs.FileSystem.from_uri(url)
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - set(S3_OPTIONS)):
        raise ValueError(f"unknown option {', '.join(unknown)}; known: {', '.join(S3_OPTIONS)}")
    if not parts.netloc or "@" in parts.netloc:
        raise ValueError("expected s3://bucket/prefix")
    endpoint = environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    if endpoint is not None:
        options.setdefault("endpoint_override", endpoint)
    if "endpoint_override" not in options and "region" not in options:
        options["region"] = fs.resolve_s3_region(parts.netloc)
    files = fs.S3FileSystem(
        **options,
        connect_timeout=S3_CONNECT_S,
        request_timeout=S3_SILENCE_S,
        # One part after another: in the background all of a large file would wait in memory.
        background_writes=False,
        # Without it even a small object is written in three requests.
        allow_delayed_open=True,
    )
    return files, f"{parts.netloc}{unquote(parts.path)}"


def _bounded(verb: str, url: str, seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, made in a thread: not every file system limits its own time. A call
    that hangs is left behind."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=work, name="storage", daemon=True).start()
    wait([done], seconds)
    if not done.done():
        raise StorageError(f"{url}: could not be {verb}: no answer within {seconds:.0f} s")
    try:
        return done.result()
    # Every file system has errors of its own: OSError, Arrow's, those of a cloud's library.
    except Exception as error:
        raise StorageError(
            f"{url}: could not be {verb}: {str(error) or type(error).__name__}"
        ) from error


def _limit(size: int) -> float:
    """Seconds for a transfer of `size` bytes."""
    return CALL_S + size / SLOWEST


def _copy(source: Any, target: Any) -> str:
    """Copies a stream; returns the SHA-256 (hex) of what was copied."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
