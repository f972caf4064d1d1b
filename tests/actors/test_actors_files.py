"""Folders between nodes: every file arrives, and none is copied on its way into pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

from repo_ray.actors.files import read_files, unpacked, write_files


def test_a_folder_arrives_as_it_was(tmp_path: Path) -> None:
    files = {"a.json": b"{}", "below/b.safetensors": bytes(range(256)) * 999, "empty": b""}
    for name, content in files.items():
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(content)
    write_files(tmp_path / "to", pickle.loads(pickle.dumps(read_files(tmp_path / "from"))))
    found = {p for p in (tmp_path / "to").rglob("*") if p.is_file()}
    assert {str(p.relative_to(tmp_path / "to")): p.read_bytes() for p in found} == files


def test_content_travels_beside_the_pickle(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 10**6)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(read_files(tmp_path), protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 1000
    assert [buffer.raw().nbytes for buffer in buffers] == [10**6]


def test_files_outlive_the_folder_that_they_were_read_from() -> None:
    with unpacked({}) as folder:
        (folder / "a").write_bytes(b"kept")
        files = read_files(folder)
    assert not folder.exists()
    assert files["a"].tobytes() == b"kept"
