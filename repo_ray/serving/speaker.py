"""Replies of a run's models, switchable between base, warm start and REPO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from repo_ray.models.adapters import add_adapters, computing, import_adapter, parse_adapter
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_base, load_tokenizer
from repo_ray.records import Message
from repo_ray.serving.run_models import RunFolderError, RunModels, Stage


class Speaker:
    """One base in memory with every adapter of the run on it."""

    def __init__(self, models: RunModels, base: Path) -> None:
        """Loads base and adapters.

        Raises:
            ValueError: an adapter of the run does not fit the base.
        """
        config = models.config
        self._config = config
        self._tokenizer = load_tokenizer(base)
        self._base: PreTrainedModel = load_base(
            base, getattr(torch, config.model.dtype), config.model.attention
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        nn.Module.to(self._base, device)
        self._adapters: Any = None
        for name, blob in models.adapters.items():
            adapter = parse_adapter(blob)
            shape = config.lora.model_copy(update={"rank": adapter.rank, "alpha": adapter.alpha})
            if self._adapters is None:
                self._adapters = add_adapters(self._base, list(models.adapters), shape)
            import_adapter(self._adapters, name, blob)
        self._stages = models.stages

    def reply(self, stage: Stage, messages: Sequence[Message], greedy: bool = False) -> str:
        """The agent's next line, sampled as in training (or greedily).

        Raises:
            RunFolderError: the run has no such stage.
        """
        if stage not in self._stages:
            raise RunFolderError(f"this run has no {stage!r}, only {', '.join(self._stages)}")
        prompt = encode_prompt(self._tokenizer, messages, thinking=self._config.model.thinking)
        ids = torch.tensor([prompt], device=self._base.device)
        sampling = self._config.sampling
        options = {"do_sample": False} if greedy else {
            "do_sample": True, "temperature": sampling.temperature, "top_p": 1.0, "top_k": 0,
        }  # fmt: skip
        generate = cast(Any, self._base.generate)
        arguments = {
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": sampling.max_new_tokens,
            "use_cache": True,
            "pad_token_id": self._tokenizer.pad_token_id,
            "eos_token_id": self._tokenizer.eos_token_id,
            **options,
        }
        with torch.inference_mode():
            if self._adapters is None:
                tokens = generate(ids, **arguments)
            else:
                with computing(self._adapters, None if stage == "base" else stage):
                    tokens = generate(ids, **arguments)
        new = tokens[0, len(prompt) :]
        return cast(str, self._tokenizer.decode(new, skip_special_tokens=True)).strip()
