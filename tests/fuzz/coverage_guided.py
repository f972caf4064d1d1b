"""Feeds the loaders bytes that reach new branches: `make fuzz` runs it, by hand and for as long as
one likes. What it finds belongs into `test_fuzz_loaders.py` as an example."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["repo_ray", "yaml"]):
    from loaders import LOADERS

NAMES = sorted(LOADERS)
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def one(data: bytes) -> None:
    """The first byte says which loader gets the rest."""
    if data:
        LOADERS[NAMES[data[0] % len(NAMES)]].feed(data[1:], FOLDER)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
