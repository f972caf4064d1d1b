"""LoRA adapters on one frozen base: create, switch, ship, merge.

Several adapters (policy, value, reward, judge) share one base through PEFT. On the wire and on
disk an adapter is one *blob*: safetensors bytes with float32 tensors `<module>.lora_A.weight`
[r, in] and `<module>.lora_B.weight` [out, r], where `<module>` is the path in the Hugging Face
model, and metadata `{"format", "rank", "alpha"}`. The layer computes
`y = W0 x + (alpha / r) B A x` (Hu et al. 2021, arXiv 2106.09685, section 4.1).
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, LoraModel
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.config.settings import LoraShape
from repo_ray.models.lora_linear import LoraLinear
from repo_ray.models.rounding import round_dithered_

FORMAT = "repo_ray.adapter/1"
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Adapter:
    """A parsed blob. `modules` maps a base module path to its A [r, in] and B [out, r], float32."""

    modules: Mapping[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: int

    @property
    def scale(self) -> float:
        """alpha / r, the factor of B @ A."""
        return self.alpha / self.rank


# --- on the model ----------------------------------------------------------------------


def add_adapters(
    base: PreTrainedModel, names: Sequence[str], shape: LoraShape, top_layers: int | None = None
) -> PeftModel:
    """Puts freshly initialised LoRA adapters on a frozen base, all of them trainable.

    B starts at zero, so every adapter starts as the base. Adapter weights are float32 whatever
    the base's type. The first name is active. With `top_layers`, only that many of the last
    layers are adapted: nothing below them needs a backward pass.

    Raises:
        ValueError: no name given, more top layers than the base has, or no module of the base
            matches `shape.target_modules`.
    """
    if not names:
        raise ValueError("add_adapters: at least one adapter name is needed")
    layers = None
    if top_layers is not None:
        depth = base.config.num_hidden_layers
        if not 1 <= top_layers <= depth:
            raise ValueError(f"top_layers is {top_layers}, but the base has {depth} layers")
        layers = list(range(depth - top_layers, depth))
    lora = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=list(shape.target_modules),
        layers_to_transform=layers,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    lora._register_custom_module({nn.Linear: LoraLinear})
    model = get_peft_model(base, lora, adapter_name=names[0], autocast_adapter_dtype=True)
    for name in names[1:]:
        model.add_adapter(name, lora, autocast_adapter_dtype=True)
    for name in names:
        for parameter in adapter_parameters(model, name):
            parameter.requires_grad_(True)
    activate(model, names[0])
    return model


def adapter_layers(model: PeftModel, name: str) -> dict[str, LoraLayer]:
    """The LoRA layers that carry adapter `name`, by base module path, in model order.

    Raises:
        KeyError: the model has no such adapter.
    """
    layers = {
        path: module
        for path, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and name in module.lora_A
    }
    if not layers:
        raise KeyError(f"no adapter {name!r}; the model has {sorted(model.peft_config)}")
    return layers


def adapter_parameters(model: PeftModel, name: str) -> list[nn.Parameter]:
    """All A and B of adapter `name`, in model order."""
    return [
        matrix
        for layer in adapter_layers(model, name).values()
        for matrix in _matrices(layer, name)
    ]


def _matrices(layer: LoraLayer, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return cast(nn.Parameter, a), cast(nn.Parameter, b)


def activate(model: PeftModel, name: str) -> None:
    """Makes the next forward passes use adapter `name` alone; gradient flags stay as they are.

    PEFT's own `set_adapter` would freeze every other adapter, and an optimizer built over both
    would then silently train one.

    Raises:
        KeyError: the model has no such adapter.
    """
    if name not in model.peft_config:
        raise KeyError(f"no adapter {name!r}; the model has {sorted(model.peft_config)}")
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module._active_adapter = [name]  # the flag that LoraLayer.forward reads
    model.active_adapter = name
    cast(LoraModel, model.base_model).active_adapter = name


@contextmanager
def computing(model: PeftModel, adapter: str | None) -> Iterator[None]:
    """Forward passes inside use `adapter`, or the bare base for None."""
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    disabled = [m._disable_adapters for m in layers]
    if adapter is not None:
        activate(model, adapter)
    for layer in layers:
        layer._disable_adapters = adapter is None
    try:
        yield
    finally:
        for layer, was in zip(layers, disabled, strict=True):
            layer._disable_adapters = was


# --- the blob --------------------------------------------------------------------------


def adapter_tensors(model: PeftModel, name: str) -> dict[str, Tensor]:
    """The matrices of adapter `name`, keyed as in a blob."""
    tensors: dict[str, Tensor] = {}
    for path, layer in adapter_layers(model, name).items():
        tensors[path + _A], tensors[path + _B] = _matrices(layer, name)
    return tensors


def export_adapter(model: PeftModel, name: str) -> bytes:
    """Adapter `name` as a blob. Under ZeRO-3 the parameters must be gathered first."""
    config = cast(LoraConfig, model.peft_config[name])
    return build_blob(adapter_tensors(model, name), config.r, config.lora_alpha)


def build_blob(tensors: Mapping[str, Tensor], rank: int, alpha: int) -> bytes:
    """A blob from tensors keyed `<module>.lora_A.weight` / `.lora_B.weight`."""
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "rank": str(rank), "alpha": str(alpha)}
    }
    data: list[memoryview] = []
    end = 0
    for key in sorted(tensors):
        plain = tensors[key].detach().to("cpu", torch.float32).contiguous()
        data.append(plain.numpy().data)
        begin, end = end, end + plain.nbytes
        header[key] = {"dtype": "F32", "shape": list(plain.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # Written here, as safetensors' own function copies everything twice.
    return b"".join([len(text).to_bytes(8, "little"), text, *data])


def parse_adapter(blob: bytes | memoryview) -> Adapter:
    """Reads a blob. Its tensors are views of the blob's memory: do not write to them.

    Raises:
        ValueError: not safetensors, another format, a missing partner, a wrong type or shape.
    """
    try:
        metadata, tensors = _views(blob)
    except Exception as error:  # each layer below raises types of its own
        raise ValueError(f"adapter blob: not readable as safetensors ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"adapter blob: format is {metadata.get('format')!r}, expected {FORMAT!r}")
    numbers = {key: metadata.get(key, "") for key in ("rank", "alpha")}
    if not all(value.isdecimal() and int(value) > 0 for value in numbers.values()):
        raise ValueError(f"adapter blob: rank and alpha must be positive integers, found {numbers}")
    rank, alpha = int(numbers["rank"]), int(numbers["alpha"])
    modules: dict[str, tuple[Tensor, Tensor]] = {}
    for key in sorted(tensors):
        path, _, kind = key.rpartition(".lora_")
        if not path or kind not in ("A.weight", "B.weight"):
            raise ValueError(f"adapter blob: unexpected tensor {key!r}")
        if path in modules:
            continue
        a, b = tensors.get(path + _A), tensors.get(path + _B)
        if a is None or b is None:
            raise ValueError(f"adapter blob: {path} lacks {'lora_A' if a is None else 'lora_B'}")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ValueError(
                f"adapter blob: {path} has A {tuple(a.shape)} and B {tuple(b.shape)}, "
                f"expected [{rank}, in] and [out, {rank}]"
            )
        modules[path] = (a, b)
    if not modules:
        raise ValueError("adapter blob: holds no tensors")
    return Adapter(modules, rank, alpha)


def _views(blob: bytes | memoryview) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of safetensors bytes, nothing copied, unlike safetensors' own `load`."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(bytes(blob[8 : 8 + size]))
    metadata = header.pop("__metadata__", {})
    tensors: dict[str, Tensor] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        for key, entry in header.items():
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
            if entry["dtype"] != "F32":
                raise ValueError(f"{key} is {entry['dtype']}, expected float32")
            if min(begin, *shape) < 0 or end - begin != 4 * math.prod(shape):
                raise ValueError(f"{key} of shape {shape} cannot be at bytes {begin} to {end}")
            tensors[key] = torch.frombuffer(
                blob, dtype=torch.float32, count=math.prod(shape), offset=8 + size + begin
            ).view(shape)
    return metadata, tensors


def import_adapter(model: PeftModel, name: str, blob: bytes) -> None:
    """Overwrites adapter `name` in place. Nothing is changed if anything does not fit.

    Raises:
        ValueError: modules, rank, alpha or shapes differ from the model's adapter.
    """
    adapter = parse_adapter(blob)
    layers = adapter_layers(model, name)
    config = cast(LoraConfig, model.peft_config[name])
    if (adapter.rank, adapter.alpha) != (config.r, config.lora_alpha):
        raise ValueError(
            f"adapter {name!r}: blob has rank {adapter.rank} and alpha {adapter.alpha}, "
            f"the model {config.r} and {config.lora_alpha}"
        )
    missing, extra = (
        sorted(layers.keys() - adapter.modules),
        sorted(adapter.modules - layers.keys()),
    )
    if missing or extra:
        raise ValueError(
            f"adapter {name!r}: modules differ from the model's; "
            f"missing from the blob: {missing[:3]} ({len(missing)}), "
            f"unknown to the model: {extra[:3]} ({len(extra)})"
        )
    pairs: list[tuple[Tensor, Tensor]] = []
    for path, layer in layers.items():
        for weight, new in zip(_matrices(layer, name), adapter.modules[path], strict=True):
            if weight.shape != new.shape:
                raise ValueError(
                    f"adapter {name!r}: {path} has shape {tuple(new.shape)}, "
                    f"the model expects {tuple(weight.shape)}"
                )
            pairs.append((weight, new))
    with torch.no_grad():
        for parameter, value in pairs:
            parameter.copy_(value)


def adapter_digest(adapter: bytes | Adapter) -> str:
    """SHA-256 (hex) over rank, alpha and the SHA-256 of each tensor, sorted by name: names, shapes
    and bytes.

    Independent of the order in which a blob stores them. Tensors are hashed by several threads.
    """
    if isinstance(adapter, bytes):
        adapter = parse_adapter(adapter)
    tensors = [
        (f"{path}{kind}:{tuple(tensor.shape)}", tensor)
        for path in sorted(adapter.modules)
        for kind, tensor in zip((_A, _B), adapter.modules[path], strict=True)
    ]
    digest = hashlib.sha256(f"{adapter.rank}/{adapter.alpha}".encode())
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for one in threads.map(_tensor_digest, tensors):
            digest.update(one)
    return digest.hexdigest()


def _tensor_digest(named: tuple[str, Tensor]) -> bytes:
    name, tensor = named
    digest = hashlib.sha256(name.encode())
    digest.update(tensor.contiguous().numpy().data)
    return digest.digest()


def merge_weight(
    w0: Float[Tensor, "out in"], a: Float[Tensor, "r in"], b: Float[Tensor, "out r"], scale: float
) -> Float[Tensor, "out in"]:
    """`w0 + scale * B @ A` in float32, rounded to the type of `w0`.

    The one definition of a merge: rollout worker, push verifier, scorers and export all use it.
    bf16 is dithered: nearly all of a small update would be lost in the nearest bf16 number.
    """
    merged = w0.to(torch.float32, copy=True).addmm_(b.float(), a.float(), alpha=scale)
    return round_dithered_(merged) if w0.dtype == torch.bfloat16 else merged.to(w0.dtype)


# --- PEFT folders ----------------------------------------------------------------------


def save_adapter(folder: Path, blob: bytes, base_path: str) -> None:
    """Writes a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`).

    `PeftModel.from_pretrained` and `vllm serve --lora-modules` load it. `base_path` names the
    base model in the config.
    """
    adapter = parse_adapter(blob)
    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        # A PEFT folder names targets by their last path component, as vLLM expects.
        target_modules=sorted({path.rpartition(".")[2] for path in adapter.modules}),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_path,
        inference_mode=True,
    ).save_pretrained(str(folder))
    tensors = {}
    for path, (a, b) in adapter.modules.items():
        tensors[f"base_model.model.{path}{_A}"] = a
        tensors[f"base_model.model.{path}{_B}"] = b
    (folder / "adapter_model.safetensors").write_bytes(save_tensors(tensors, {"format": "pt"}))


def zero_adapter(blob: bytes) -> bytes:
    """An adapter of the same shape that changes nothing: the base."""
    adapter = parse_adapter(blob)
    tensors = {
        f"{path}.lora_{name}.weight": matrix * 0
        for path, pair in adapter.modules.items()
        for name, matrix in zip("AB", pair, strict=True)
    }
    return build_blob(tensors, adapter.rank, adapter.alpha)
