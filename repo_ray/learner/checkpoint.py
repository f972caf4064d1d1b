"""Learner checkpoints: safetensors files only, nothing is unpickled.

A folder holds `policy.safetensors` and, of a learner with a value network, `value.safetensors`
(adapter blobs) and `value_head.safetensors`; and per rank `optimizer-<rank>.safetensors` and
`rng-<rank>.safetensors`. The caller makes the folder's appearance atomic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

#: The value head's file: there exactly if the learner has a value network.
HEAD = "value_head.safetensors"


class CheckpointError(Exception):
    """A checkpoint file is missing, damaged or of another learner. The message names it."""


def rank_of(name: str) -> int | None:
    """The rank that a file of a checkpoint belongs to; None for one that every rank reads."""
    found = re.search(r"-(\d+)\.safetensors$", name)
    return int(found[1]) if found else None


def check_critic(folder: Path, critic: bool) -> None:
    """Refuses a checkpoint with a value network for a learner without, and the other way round.

    Raises CheckpointError.
    """
    if (folder / HEAD).exists() and not critic:
        raise CheckpointError(
            f"{folder}: it holds a value network, which algorithm.advantage: group does not have"
        )
    if critic and not (folder / HEAD).exists():
        raise CheckpointError(
            f"{folder}: {HEAD} is missing: algorithm.advantage: gae needs the value network, and "
            "this is a checkpoint of another learner (group) or incomplete"
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors, from any device."""
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads `write_tensors`' file to the CPU. Raises CheckpointError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def read_blob(path: Path) -> bytes:
    """Reads an adapter blob's bytes. Raises CheckpointError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def random_state() -> dict[str, Tensor]:
    """The state of torch's generators in this process: `cpu`, and `cuda` where there is a GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restores `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
