"""What runs inside vLLM's workers: loading an adapter and reading live tensors back.

vLLM mixes `PublicationExtension` into its worker class, and the engine calls the methods with
`collective_rpc`. What is used of vLLM's inside is as of vLLM 0.32.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from repo_ray.models.adapters import Adapter, adapter_digest, merge_weight, parse_adapter
from repo_ray.rollouts.publication import difference, expected_shard

#: Rows of the identity that go through a packed layer at a time; bounds the memory.
_IDENTITY_ROWS = 1024


class PublicationExtension:
    """Methods added to every vLLM worker. Module names are those of the Hugging Face model."""

    model_runner: Any
    device: torch.device
    _received: Adapter

    def receive_adapter(self, blob: bytes) -> str:
        """Keeps the adapter for the calls that follow; returns its digest."""
        self._received = parse_adapter(blob)
        return adapter_digest(self._received)

    def merge_adapter(self, folder: str) -> None:
        """Makes `W0 + alpha/r B A` of the received adapter live, W0 read afresh from the model
        folder.

        Rereading costs less than keeping a second copy of the base in memory, and rules out
        that one push builds on the last. Layers without an adapter stay untouched.

        Raises:
            KeyError: the adapter names a module that the model or its folder does not have.
        """
        adapter, base = self._received, _BaseWeights(Path(folder))
        with torch.no_grad():
            # vLLM fuses q, k, v and gate, up: a fused weight is loaded whole.
            for fused, sources in dict(map(self._fused, adapter.modules)).items():
                parts = [self._merge(adapter, base, module) for module in sources]
                _load_weight(self._layer(fused), torch.cat(parts) if parts[1:] else parts[0])

    def read_back_merged(self, folder: str, modules: list[str]) -> dict[str, float]:
        """Largest difference of each module's live weight from a recomputed merge of the received
        adapter, which is forgotten then."""
        adapter, base = self._received, _BaseWeights(Path(folder))
        del self._received
        live_layers: dict[str, Tensor] = {}
        found: dict[str, float] = {}
        with torch.no_grad():
            for module in sorted(modules):
                fused, sources = self._fused(module)
                layer = self._layer(fused)
                if fused not in live_layers:
                    # Only the layer at hand: a large model's weights would not fit twice.
                    live_layers = {fused: _live_weight(layer)}
                part = sources.index(module)
                live = live_layers[fused].split(_part_rows(layer, live_layers[fused]))[part]
                expected = expected_shard(
                    self._merge(adapter, base, module), live.shape, layer.tp_rank, layer.tp_size
                )
                found[module] = difference(live, expected)
        return found

    def read_back_lora(self, blob: bytes, lora_id: int, modules: list[str]) -> dict[str, float]:
        """Largest difference of each module's A and B in vLLM's LoRA slot from the blob's.

        Raises:
            LookupError: no slot holds `lora_id`.
        """
        adapter = parse_adapter(blob)
        manager = self.model_runner.get_model().lora_manager
        if lora_id not in manager.lora_index_to_id:
            raise LookupError(f"LoRA {lora_id} is in no slot; found {manager.lora_index_to_id}")
        slot = manager.lora_index_to_id.index(lora_id)
        found: dict[str, float] = {}
        for module in modules:
            fused, sources = self._fused(module)
            layer, part = manager.modules[fused], sources.index(module)
            a, b = _lora_as_vllm(adapter, module, layer.lora_a_stacked[part].dtype)
            live_a = layer.lora_a_stacked[part][slot, 0, : adapter.rank].cpu()
            live_b = layer.lora_b_stacked[part][slot, 0, :, : adapter.rank].cpu()
            ranks = (layer.tp_rank, layer.tp_size)
            found[module] = max(
                difference(live_a, expected_shard(a, live_a.shape, *ranks)),
                difference(live_b, expected_shard(b, live_b.shape, *ranks)),
            )
        return found

    def end_with(self, owner: int) -> None:
        """Ends this engine when process `owner` ends, in whatever way.

        vLLM's engine core waits for requests for ever after its client was killed, and keeps
        its memory. With `mp` workers the core is this process's parent.
        """
        handle = os.pidfd_open(owner)
        core = os.getppid()

        def wait() -> None:
            select.select([handle], [], [])
            if core != owner and os.getppid() == core:
                os.kill(core, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, name="end-with-owner", daemon=True).start()

    # --- inside -------------------------------------------------------------------------

    def _fused(self, module: str) -> tuple[str, list[str]]:
        """vLLM's layer that holds `module`, and all modules it holds, in its order."""
        parent, _, leaf = module.rpartition(".")
        packed: dict[str, list[str]] = self.model_runner.get_model().packed_modules_mapping
        for name, leaves in packed.items():
            if leaf in leaves:
                return f"{parent}.{name}", [f"{parent}.{each}" for each in leaves]
        return module, [module]

    def _layer(self, name: str) -> Any:
        try:
            return self.model_runner.get_model().get_submodule(name)
        except AttributeError:
            raise KeyError(f"the adapter names a module that vLLM's model lacks: {name}") from None

    def _merge(self, adapter: Adapter, base: _BaseWeights, module: str) -> Tensor:
        """The weight that `module` must have, on the worker's device, unsharded."""
        dtype = self.model_runner.model_config.dtype
        w0 = base.tensor(f"{module}.weight").to(self.device, dtype)
        if module not in adapter.modules:
            return w0
        a, b = (matrix.to(self.device) for matrix in adapter.modules[module])
        return merge_weight(w0, a, b, adapter.scale)


class _BaseWeights:
    """Tensors of a model folder by name, read from its safetensors files when asked for."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, framework="pt", device="cpu")
            self._files.update(dict.fromkeys(file.keys(), file))
        self._folder = folder

    def tensor(self, name: str) -> Tensor:
        if name not in self._files:
            raise KeyError(f"{self._folder}: no tensor {name!r} in its safetensors files")
        return self._files[name].get_tensor(name)


def _load_weight(layer: Any, weight: Tensor) -> None:
    """Makes the unsharded `weight` [out, in] the one that a vLLM linear layer computes with.

    vLLM's `reload_weights` does this for all layers at once, and is slower than the merge itself:
    it walks the whole model and goes through the loaders twice.
    """
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    from vllm.model_executor.model_loader.reload.meta import (
        materialize_layer,
        restore_layer_on_meta,
    )

    packed = not layer.weight.numel()
    if packed and layer.tp_size == 1:
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    else:
        if packed:
            info = get_layerwise_info(layer)
            restore_layer_on_meta(layer, info)
            materialize_layer(layer, info)
        # vLLM's loader takes this rank's part, into the place whose address CUDA graphs hold.
        layer.weight.weight_loader(layer.weight, weight)
    layer.quant_method.process_weights_after_loading(layer)  # packs the weight on CPUs


def _live_weight(layer: Any) -> Tensor:
    """The weight that a vLLM linear layer computes with, [out, in] of this rank.

    On CPUs vLLM packs it and leaves `layer.weight` empty. Then the identity goes through the
    layer: each output is one weight times one plus zeros, so the weight comes back bit for bit.
    """
    if layer.weight.numel():
        return layer.weight
    columns = layer.input_size_per_partition
    identity = torch.eye(columns, dtype=layer.weight.dtype, device=layer.weight.device)
    rows = [
        layer.quant_method.apply(layer, part.contiguous())
        for part in identity.split(_IDENTITY_ROWS)
    ]
    return torch.cat(rows).t()


def _part_rows(layer: Any, live: Tensor) -> list[int]:
    """Rows of this rank that each fused part has, in order."""
    if hasattr(layer, "output_sizes"):
        return [size // layer.tp_size for size in layer.output_sizes]
    return [live.shape[0]]


def _lora_as_vllm(adapter: Adapter, module: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and B as vLLM stores them: in its LoRA type, B times alpha / r after the cast."""
    a, b = adapter.modules[module]
    return a.to(dtype), b.to(dtype) * adapter.scale
