"""The value head. It lives outside PEFT: vLLM refuses adapters with `modules_to_save`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ValueHead(nn.Module):
    """Hidden states to one scalar each, in float32 whatever the base's type.

    Zero-initialised: the first values are 0, so the first returns are not disturbed by noise.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Float[Tensor, "... hidden"]) -> Float[Tensor, ...]:
        return self.linear(hidden.float()).squeeze(-1)
