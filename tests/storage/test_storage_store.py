"""Objects on every kind of storage, and what the user is told when there is none."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repo_ray.storage import store as module
from repo_ray.storage.store import StorageError, Store, below, fetch_file

#: More than one part of a multipart upload.
LARGE = 23 * 2**20


def test_objects_are_written_listed_read_and_deleted(url: str) -> None:
    store = Store(url)
    assert store.names() == []
    store.write("a.txt", b"first")
    store.write("a.txt", b"second")
    store.write("folder/b.txt", b"")
    store.write("folder/below/c.txt", b"c")
    assert store.names() == ["a.txt", "folder/b.txt", "folder/below/c.txt"]
    assert store.names("folder") == ["folder/b.txt", "folder/below/c.txt"]
    assert store.names("fold") == []
    assert [store.read(name) for name in ("a.txt", "folder/b.txt")] == [b"second", b""]
    store.delete("a.txt")
    store.delete_folder("folder")
    assert store.names() == []


def test_a_large_file_comes_back_whole_with_its_hash(url: str, tmp_path: Path) -> None:
    content = os.urandom(LARGE)
    (tmp_path / "large").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    store = Store(url)
    assert store.write("large", tmp_path / "large") == expected
    assert store.fetch("large", tmp_path / "new" / "copy") == expected
    assert (tmp_path / "new" / "copy").read_bytes() == content


def test_the_probe_leaves_nothing(url: str) -> None:
    store = Store(url)
    store.probe()
    assert store.names() == []


def test_one_object_is_fetched_by_its_own_url(url: str, tmp_path: Path) -> None:
    Store(url).write("rows.jsonl", b"{}")
    fetch_file(below(url, "rows.jsonl"), tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == b"{}"


def test_what_is_not_there_is_named(url: str, tmp_path: Path) -> None:
    store = Store(url)
    for use in (lambda: store.read("absent"), lambda: store.fetch("absent", tmp_path / "x")):
        with pytest.raises(StorageError, match=r"stored/absent: could not be "):
            use()
    with pytest.raises(StorageError, match=r"nowhere: cannot be read: No such file"):
        store.write("a", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../a", "/a", "a//b", "a/../../b", "", "a/", "./a"])
def test_names_stay_below_the_url(tmp_path: Path, name: str) -> None:
    store = Store(f"file://{tmp_path}/stored")
    for use in (store.read, store.delete, lambda n: store.write(n, b"x")):
        with pytest.raises(StorageError, match="cannot be the name of an object"):
            use(name)
    assert list(tmp_path.rglob("*")) == []


def test_an_object_that_was_written_by_half_is_not_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"file://{tmp_path}")
    store.write("a", b"whole")

    def half(source: Any, target: Any) -> str:
        target.write(source.read()[:2])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_copy", half)
    with pytest.raises(StorageError, match="Input/output error"):
        store.write("a", b"newer")
    assert store.read("a") == b"whole"


def test_a_call_that_fails_once_is_made_again(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    files, calls = store._files, []

    class Flaky:
        def __getattr__(self, name: str) -> Any:
            return getattr(files, name)

        def open_output_stream(self, *args: Any, **options: Any) -> Any:
            calls.append(args)
            if len(calls) == 1:
                raise OSError("connection reset")
            return files.open_output_stream(*args, **options)

    store._files = Flaky()
    store.write("a", b"x")
    assert len(calls) == 2
    assert store.read("a") == b"x"


def test_a_call_that_hangs_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_S", 0.1)
    store = Store(f"file://{tmp_path}/stored")
    released = threading.Event()
    store._files = SimpleNamespace(get_file_info=lambda selector: released.wait())
    began = time.monotonic()
    try:
        with pytest.raises(StorageError, match=r"stored: could not be listed: no answer within"):
            store.names()
    finally:
        released.set()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "s3://bucket/x?region=us-east-1&anonymous=1",
            r"s3://bucket/x: .*unknown option anonymous",
        ),
        ("s3:///x?region=us-east-1", r"expected s3://bucket/prefix"),
        ("s3://user@bucket/x?region=us-east-1", r"expected s3://bucket/prefix"),
        ("ftpx://host/x", r"ftpx://host/x: could not be opened"),
        ("fsspec+nosuch://host/x", r"nosuch"),
    ],
)
def test_a_url_that_cannot_be_opened_is_named_with_its_cause(url: str, expected: str) -> None:
    with pytest.raises(StorageError, match=expected):
        Store(url)


def test_a_missing_bucket_is_named(s3_server: str, s3_keys: None) -> None:
    store = Store(f"s3://no-such-bucket/x?scheme=http&endpoint_override={s3_server}")
    with pytest.raises(
        StorageError, match=r"s3://no-such-bucket/x/\.probe.*(?i:no_such_bucket|does not exist|404)"
    ):
        store.probe()


def test_the_endpoint_may_come_from_the_environment(
    s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{s3_server}")
    store = Store(f"s3://{bucket}/x?region=us-east-1")
    store.probe()
    store.write("a", b"1")
    assert store.names() == ["a"]


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """An S3 server that denies everything, as one does for missing permissions."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_missing_permissions_are_said(refusing_server: str, s3_keys: None) -> None:
    store = Store(f"s3://bucket/x?scheme=http&endpoint_override={refusing_server}")
    with pytest.raises(StorageError, match=r"s3://bucket/x/\.probe.*(?i:access.?denied|403)"):
        store.probe()


def test_a_server_that_is_not_there_is_said(s3_keys: None) -> None:
    # Nothing listens on the discard port.
    store = Store("s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:9")
    with pytest.raises(StorageError, match=r"s3://bucket/x/\.probe.*could not be written"):
        store.probe()
