"""Rounding to bf16 such that small updates of a large weight are not lost."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

#: Steps between the thresholds of neighbouring rows and columns, of 2^16: odd, and near the
#: fractions that spread points over a square most evenly (the plastic number's inverse, and that
#: squared).
_ROW_STEP, _COLUMN_STEP = 49471, 37343


def round_dithered(exact: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """bf16 with a threshold of its own for every element, instead of the middle for all.

    Thresholds are spread evenly, so as many numbers are rounded up as lie above their lower
    neighbour by, and sums over many elements come out right. They hang on the element's place
    alone: the same on every device and at every push. What bf16 holds stays as it is.
    """
    device = exact.device
    rows = torch.arange(exact.shape[0], dtype=torch.int32, device=device) * _ROW_STEP
    columns = torch.arange(exact.shape[1], dtype=torch.int32, device=device) * _COLUMN_STEP
    # A carry out of the 16 bits that bf16 does not hold makes the next larger number.
    bits = (rows[:, None] + columns).bitwise_and_(2**16 - 1)
    bits.add_(exact.float().contiguous().view(torch.int32)).bitwise_and_(-(2**16))
    return bits.view(torch.float32).bfloat16()
