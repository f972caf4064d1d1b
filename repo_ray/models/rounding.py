"""Rounding to bf16 such that small updates of a large weight are not lost."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

#: Steps between the thresholds of neighbouring columns and rows, of 2^16: odd, and near the
#: fractions that spread points over a square most evenly (the plastic number's inverse, squared,
#: and that itself). A row is the same sequence as the row before, 61 columns later.
_COLUMN_STEP, _ROW_SHIFT = 37339, 61  # 61 * 37339 % 2^16 = 49455


def round_dithered_(exact: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """bf16 with a threshold of its own for every element, instead of the middle for all.

    Thresholds are spread evenly, so as many numbers are rounded up as lie above their lower
    neighbour by, and sums over many elements come out right. They hang on the element's place
    alone: the same on every device and at every push. What bf16 holds stays as it is.

    `exact` is float32, contiguous, and lost: it is the working memory.
    """
    rows, columns = exact.shape
    length = _ROW_SHIFT * (rows - 1) + columns
    sequence = torch.arange(length, dtype=torch.int32, device=exact.device) * _COLUMN_STEP
    thresholds = sequence.bitwise_and_(2**16 - 1).as_strided((rows, columns), (_ROW_SHIFT, 1))
    # A carry out of the 16 bits that bf16 does not hold makes the next larger number.
    bits = exact.view(torch.int32).add_(thresholds).bitwise_right_shift_(16)
    return bits.to(torch.int16).view(torch.bfloat16)
