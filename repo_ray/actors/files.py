"""Small folders between nodes through Ray's object store: nodes need no file system in common.

A file is an array over its mapped pages, which Ray copies once, into the object store, and which
whoever gets it reads from there: no further copy is in memory, however large the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

#: Content by file name, relative to the folder.
Files = Mapping[str, NDArray[np.uint8]]


def read_files(folder: Path) -> Files:
    """Every file below `folder`."""
    return {
        str(path.relative_to(folder)): read_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_file(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size == 0:  # nothing to map
        return np.empty(0, np.uint8)
    # Of a subclass such as memmap pickle would make copies.
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


def write_files(folder: Path, files: Files) -> None:
    """Writes every file below `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.data)


@contextmanager
def unpacked(files: Files) -> Iterator[Path]:
    """A temporary folder of this node with the files in it."""
    with TemporaryDirectory(prefix="repo-ray-") as folder:
        write_files(Path(folder), files)
        yield Path(folder)
