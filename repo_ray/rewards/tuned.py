"""A frozen base tuned to score: how reward model and judge are stored and loaded.

A checkpoint is a folder with `<name>.safetensors` (tensors only, never pickle) and
`<name>.json` (what the tensors are, on which base, how well they do on held-out data).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repo_ray.models.adapters import merge_weight
from repo_ray.models.loading import fingerprint, load_base, load_tokenizer, resolve_model

_A, _B = ".lora_A.weight", ".lora_B.weight"


class CheckpointError(Exception):
    """A scorer's checkpoint cannot be used. The message names the file and what is wrong."""


class Base(BaseModel):
    """The base model and LoRA shape that a checkpoint belongs to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    fingerprint: str
    dtype: str
    rank: int
    alpha: int


class Card(BaseModel):
    """The JSON beside the tensors; scorers add their own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    base: Base


CardT = TypeVar("CardT", bound=Card)


def save_checkpoint(folder: Path, name: str, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Writes both files. The JSON comes last: without it the folder is no checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {k: t.detach().to("cpu", torch.float32).contiguous() for k, t in tensors.items()}
    staged = folder / f".{name}.safetensors"
    save_file(plain, staged, {"format": card.format})
    (folder / f"{name}.json").unlink(missing_ok=True)
    os.replace(staged, folder / f"{name}.safetensors")
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    staged = folder / f".{name}.json"
    staged.write_text(text + "\n", encoding="utf-8")
    os.replace(staged, folder / f"{name}.json")


def load_checkpoint(
    folder: Path, name: str, card_type: type[CardT], format_name: str
) -> tuple[dict[str, Tensor], CardT]:
    """Reads both files. Raises `CheckpointError`."""
    file = folder / f"{name}.json"
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}") from None
    found = card.get("format") if isinstance(card, dict) else None
    if found != format_name:
        raise CheckpointError(f"{file}: format is {found!r}, expected {format_name!r}")
    try:
        parsed = card_type.model_validate(card)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file}: {key}: {first['msg']}") from None
    file = folder / f"{name}.safetensors"
    try:
        return load(file.read_bytes()), parsed
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not readable as safetensors: {error}") from None


def load_merged(
    folder: Path, tensors: Mapping[str, Tensor], base: Base, model_folder: Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base with the checkpoint's adapter merged into its weights, and its tokenizer.

    `model_folder`: where the base lies; None: resolved from its path in the checkpoint.
    `folder` only names the checkpoint in errors. Raises `CheckpointError` where the base is not
    the one it was trained on, or the adapter does not fit it.
    """
    path = model_folder or resolve_model(base.path)
    if fingerprint(path) != base.fingerprint:
        raise CheckpointError(f"{folder}: trained on another base model than {path} now holds")
    model = load_base(path, getattr(torch, base.dtype), "sdpa", packed=True)
    for key, a in tensors.items():
        if not key.endswith(_A):
            continue
        module = key.removesuffix(_A)
        b = tensors.get(module + _B)
        try:
            weight = model.get_parameter(f"{module}.weight")
        except AttributeError:
            raise CheckpointError(f"{folder}: the base has no module {module}") from None
        if b is None or (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise CheckpointError(f"{folder}: the adapter of {module} does not fit the base")
        with torch.no_grad():
            weight.copy_(merge_weight(weight, a, b, base.alpha / base.rank))
    return model, load_tokenizer(path)
