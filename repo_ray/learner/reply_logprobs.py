"""The policy as the supervised stages train it: log-probabilities of given replies."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.models.actor_critic import POLICY
from repo_ray.models.adapters import computing
from repo_ray.models.logprobs import token_logprobs


class ReplyLogprobs(nn.Module):
    """Log-probabilities (nats, at temperature 1) of reply tokens under base and policy adapter."""

    def __init__(self, model: PeftModel, chunk: int) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        mask: Tensor,
        states: Int[Tensor, N],
        targets: Int[Tensor, N],
        positions: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, N]:
        """`states` are flat indices [B * T] of the state before each reply token, `targets` those
        tokens. `mask` and `positions` are as the decoder takes them: [B, T] for padding alone,
        or as `models.packing` makes them.
        """
        base = cast(PreTrainedModel, self.model.get_base_model())
        with computing(self.model, POLICY):
            hidden = base.get_decoder()(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            weight = cast(Tensor, base.get_output_embeddings().weight)
            return token_logprobs(hidden.flatten(0, 1)[states], weight, targets, 1.0, self.chunk)[0]
