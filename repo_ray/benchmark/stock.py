"""The learner's work done the usual way: PEFT on transformers, padded rows, full logits.

Two adapters on one base, as in `learner.ppo_learner`: a pass for the old values, one forward and
backward each for policy and value, one AdamW step. SDPA attention, no compilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel

from repo_ray.algorithms.ppo import policy_loss, value_loss
from repo_ray.config.settings import Config
from repo_ray.records import Experience


class StockLearner:
    """One `update` does what `PPOLearner.update` does."""

    def __init__(self, config: Config, model_folder: Path) -> None:
        self._config = config
        dtype = getattr(torch, config.model.dtype)
        base = AutoModelForCausalLM.from_pretrained(
            model_folder, dtype=dtype, attn_implementation="sdpa"
        )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        lora = LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules="all-linear"
        )
        self._model = get_peft_model(base, lora, adapter_name="policy")
        self._model.add_adapter("value", lora)
        self._head = nn.Linear(base.config.hidden_size, 1)
        for module in (self._model, self._head):
            module.to(self._device)
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW([*trained, *self._head.parameters()], lr=1e-4)

    def update(self, batch: Sequence[Experience]) -> None:
        rollouts = [e.rollout for e in batch]
        rows = [torch.tensor([*r.prompt_token_ids, *r.token_ids]) for r in rollouts]
        ids = pad_sequence(rows, batch_first=True).to(self._device)
        seen = pad_sequence([torch.ones_like(r) for r in rows], batch_first=True).to(self._device)
        response = torch.zeros_like(ids, dtype=torch.bool)
        for row, r in enumerate(rollouts):
            begin = len(r.prompt_token_ids)
            response[row, begin : begin + len(r.token_ids)] = True
        chosen = response[:, 1:]
        behaviour = torch.cat([torch.tensor(r.logprobs) for r in rollouts]).to(self._device)
        algorithm = self._config.algorithm

        with torch.no_grad():
            old_values = self._values(ids, seen)[chosen]
        rewards = torch.tensor([e.reward.total for e in batch], device=self._device)
        returns = torch.repeat_interleave(rewards, chosen.sum(1))
        advantages = returns - old_values

        self._model.set_adapter("policy")
        logits = self._model(input_ids=ids, attention_mask=seen).logits[:, :-1].float()
        logprobs = torch.log_softmax(logits / self._config.sampling.temperature, -1)
        new = logprobs.gather(-1, ids[:, 1:, None])[..., 0][chosen]
        loss = policy_loss(new, new.detach(), behaviour, advantages, algorithm.clip, "behaviour")
        loss.loss.mean().backward()

        self._model.set_adapter("value")
        values = self._values(ids, seen)[chosen]
        value_loss(values, old_values, returns, algorithm.value_clip).mean().backward()
        nn.utils.clip_grad_norm_(self._trained(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _trained(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _values(self, ids: Tensor, seen: Tensor) -> Tensor:
        """[B, T-1]: of the state before each token."""
        self._model.set_adapter("value")
        decoder = cast(PreTrainedModel, self._model.get_base_model()).base_model
        hidden = decoder(input_ids=ids, attention_mask=seen).last_hidden_state
        values: Tensor = self._head(hidden[:, :-1].float())
        return values[..., 0]
