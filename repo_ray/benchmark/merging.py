"""What rounding a merged adapter keeps of its updates: in the weights, and in what is sampled.

An engine that merges holds W0 + alpha/r B A rounded to its type. bf16 numbers lie 2^-8 to 2^-7 of
their size apart, an update at a small learning rate is far smaller, and so most of an update's
elements leave the rounded weight as it was. Whether the policy stays behind too depends on where
the sums lie: spread evenly between two bf16 numbers, few elements move by much and their mean is
right; all close to one, as with an adapter that is still small, none moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repo_ray.models.adapters import Adapter, merge_weight


@dataclass(frozen=True)
class Kept:
    """Of the elements that an update changes: the share that the rounded weight does not follow.

    `norm` is the length of the change of the rounded weights over that of the exact one, `cosine`
    the angle between them; 1 and 1 without rounding. `slope` is the part of the exact change that
    is in the rounded one, their product over the exact one's square: 1 where rounding adds noise
    and takes nothing.
    """

    share_lost: float
    norm: float
    cosine: float
    slope: float


#: Of W0 [out, in], A [r, in], B [out, r] and alpha / r: the weight that an engine computes with.
Merge = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def nearest(w0: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """The sum in float32, each element then the nearest number of W0's type."""
    return merge_weight(w0.float(), a, b, scale).to(w0.dtype)


def kept(
    base: Mapping[str, Float[Tensor, "out in"]], before: Adapter, after: Adapter, merge: Merge
) -> Kept:
    """What is left of the update from `before` to `after` once both are merged into `base`.

    `base` has the weight of every module of the adapters, in the type that is sampled from.

    Raises:
        ValueError: the update changes nothing.
    """
    changed = lost = 0
    exact_square = rounded_square = product = 0.0
    for module, (a, b) in after.modules.items():
        a0, b0 = before.modules[module]
        # Not the difference of two merges: an update is far smaller than either.
        exact = after.scale * ((b - b0) @ a + b0 @ (a - a0))
        w0 = base[module]
        rounded = merge(w0, a, b, after.scale).float()
        rounded -= merge(w0, a0, b0, before.scale).float()
        moved = exact != 0
        changed += int(moved.sum())
        lost += int((moved & (rounded == 0)).sum())
        exact_square += float(exact.double().square().sum())
        rounded_square += float(rounded.double().square().sum())
        product += float((exact.double() * rounded).sum())
    if not changed:
        raise ValueError("the update changes no weight")
    return Kept(
        share_lost=lost / changed,
        norm=(rounded_square / exact_square) ** 0.5,
        cosine=product / (exact_square * rounded_square) ** 0.5 if rounded_square else 0.0,
        slope=product / exact_square,
    )


@dataclass(frozen=True)
class Followed:
    """How the log-probs of a sampler move with the exact ones, over tokens.

    `slope`: least squares through the origin, with its standard error; 1 follows, 0 stays.
    `correlation`: 0 where noise hides the movement. `moved` and `noise` (nats): root mean squares
    of the exact change, and of what the sampler's differs from it.
    """

    slope: float
    error: float
    correlation: float
    moved: float
    noise: float


def followed(sampler: Float[Tensor, " n"], exact: Float[Tensor, " n"]) -> Followed:
    """Changes of the same tokens' log-probs (nats) since the same adapter; two or more tokens.

    Raises:
        ValueError: nothing moved exactly.
    """
    s, e = sampler.double(), exact.double()
    square = float(e.square().sum())
    if not square:
        raise ValueError("no log-prob moved")
    slope = float((s * e).sum()) / square
    residual = float((s - slope * e).square().sum()) / (len(e) - 1)
    spread = float(s.std() * e.std())
    return Followed(
        slope=slope,
        error=(residual / square) ** 0.5,
        correlation=float(torch.corrcoef(torch.stack([s, e]))[0, 1]) if spread else 0.0,
        moved=float(e.square().mean().sqrt()),
        noise=float((s - e).square().mean().sqrt()),
    )
