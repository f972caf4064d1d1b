"""The policy as the supervised stages train it: log-probabilities of given replies."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.models.actor_critic import POLICY, SequenceBatch
from repo_ray.models.adapters import computing
from repo_ray.models.logprobs import token_logprobs
from repo_ray.models.packing import hidden_states


class ReplyLogprobs(nn.Module):
    """Log-probabilities (nats, at temperature 1) of reply tokens under base and policy adapter."""

    def __init__(self, model: PeftModel, chunk: int) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk

    def forward(self, batch: SequenceBatch) -> Float[Tensor, N]:
        """Those of all response tokens of the batch, sample by sample."""
        base = cast(PreTrainedModel, self.model.get_base_model())
        with computing(self.model, POLICY):
            states = hidden_states(base.get_decoder(), batch.packed)[batch.states]
            weight = cast(Tensor, base.get_output_embeddings().weight)
            return token_logprobs(states, weight, batch.targets, 1.0, self.chunk)[0]
