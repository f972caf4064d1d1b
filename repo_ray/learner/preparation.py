"""What the supervised stages share: the base with a fresh adapter, and writing the policy."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from repo_ray.config.settings import Config
from repo_ray.config.supervised import SupervisedConfig
from repo_ray.learner.fitting import TrainingError
from repo_ray.models.actor_critic import POLICY
from repo_ray.models.adapters import adapter_layers, add_adapters, export_adapter, import_adapter
from repo_ray.models.loading import fingerprint, load_base, load_tokenizer
from repo_ray.rewards.tuned import Base


def adapted(
    config: Config,
    folder: Path,
    name: str,
    stage: SupervisedConfig,
    whole: bool = False,
    start: Path | None = None,
) -> tuple[PreTrainedTokenizerBase, PeftModel]:
    """Tokenizer and base with one new adapter, initialised from the run's seed or from `start`.

    With `whole`, every layer gets an adapter but only `stage.top_layers` are trained: the
    adapter then has the shape that the learner and the engines expect. `start` is a blob of that
    shape (see `models.adapters`).

    Raises `TrainingError` where `start` cannot be read or does not fit.
    """
    torch.manual_seed(config.run.seed)
    torch.set_num_threads(config.learner.threads)
    dtype = getattr(torch, config.model.dtype)
    base = load_base(folder, dtype, config.model.attention, packed=True)
    if torch.cuda.is_available():
        nn.Module.to(base, torch.device("cuda"))
    model = add_adapters(base, [name], config.lora, None if whole else stage.top_layers)
    if whole and stage.top_layers is not None:
        first = base.config.num_hidden_layers - stage.top_layers
        for path, layer in adapter_layers(model, name).items():
            index = next(int(part) for part in path.split(".") if part.isdecimal())
            if index < first:
                cast(nn.Module, layer).requires_grad_(False)
    if start is not None:
        try:
            import_adapter(model, name, start.read_bytes())
        except (OSError, ValueError) as error:
            raise TrainingError(f"{start}: not an adapter to start from: {error}") from error
    return load_tokenizer(folder), model


def write_policy(folder: Path, model: PeftModel) -> Path:
    """Writes the policy adapter as the blob `adapter.safetensors`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / ".adapter.safetensors"
    staged.write_bytes(export_adapter(model, POLICY))
    return staged.replace(folder / "adapter.safetensors")


def base_of(config: Config, model_folder: Path) -> Base:
    local_path = Path(config.model.path).expanduser()
    return Base(
        path=str(local_path.resolve()) if local_path.is_dir() else config.model.path,
        fingerprint=fingerprint(model_folder),
        dtype=config.model.dtype,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
    )
