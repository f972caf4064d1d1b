"""The sizes of a dense decoder, from its `config.json`, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ArchitectureError(Exception):
    """The model's sizes cannot be had. The message says where they were looked for."""


@dataclass(frozen=True)
class Architecture:
    """A dense decoder with grouped-query attention and a gated feed-forward network.

    `qk_norm`: queries and keys are normalised per head (Qwen3).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied_embeddings: bool
    qk_norm: bool = False

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of every linear map of one layer, by its Hugging Face name."""
        return {
            "q_proj": (self.hidden, self.query_width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (self.query_width, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def parameters(self) -> int:
        """Weights in all; biases are left out."""
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        layer = sum(i * o for i, o in self.linears().values()) + 2 * self.hidden
        if self.qk_norm:
            layer += 2 * self.head_dim
        return embeddings + self.layers * layer + self.hidden

    def lora_parameters(
        self, rank: int, targets: tuple[str, ...], layers: int | None = None
    ) -> int:
        """Weights of one LoRA adapter on the linear maps `targets` of `layers` layers (null: all).

        Raises `ArchitectureError` for a target that the layers do not have.
        """
        linears = self.linears()
        unknown = sorted(set(targets) - linears.keys())
        if unknown:
            raise ArchitectureError(
                f"lora.target_modules: {', '.join(unknown)}: not among the linear layers of this "
                f"architecture ({', '.join(linears)})"
            )
        per_layer = sum(rank * sum(linears[target]) for target in targets)
        return per_layer * (self.layers if layers is None else layers)

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers, in a two-byte type."""
        return 2 * 2 * self.layers * self.kv_width


#: Models that can be planned without their files; sizes as in the config.json of each model card.
KNOWN: Mapping[str, Architecture] = {
    "Qwen/Qwen3-32B": Architecture(
        hidden=5120,
        layers=64,
        heads=64,
        kv_heads=8,
        head_dim=128,
        intermediate=25600,
        vocab=151936,
        tied_embeddings=False,
        qk_norm=True,
    ),
    "smollm2-135m": Architecture(
        hidden=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        intermediate=1536,
        vocab=49152,
        tied_embeddings=True,
    ),
}


def read_architecture(model: str) -> Architecture:
    """The architecture of `model.path`: a known name, or a folder with a `config.json`.

    Raises `ArchitectureError`. Downloads nothing.
    """
    if model in KNOWN:
        return KNOWN[model]
    path = Path(model).expanduser() / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArchitectureError(
            f"model.path {model!r}: no {path}, and not one of the known names "
            f"({', '.join(KNOWN)}); give a local model folder"
        ) from None
    except (OSError, ValueError) as error:
        raise ArchitectureError(f"{path}: not readable: {error}") from None
    return from_config(config, str(path))


def from_config(config: Mapping[str, Any], origin: str) -> Architecture:
    """Reads a Hugging Face config; `origin` names it in errors. Raises `ArchitectureError`."""
    if any("expert" in key for key in config):
        raise ArchitectureError(f"{origin}: mixture-of-experts models are not planned")
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Architecture(
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            qk_norm=config.get("model_type") == "qwen3",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArchitectureError(
            f"{origin}: not a dense decoder's config ({type(error).__name__}: {error})"
        ) from None
