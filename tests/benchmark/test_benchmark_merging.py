"""What rounding keeps of an update: against numbers worked out by hand, and where nothing is lost."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repo_ray.benchmark.merging import followed, kept, nearest
from repo_ray.models.adapters import Adapter


def adapter(a: Tensor, b: Tensor) -> Adapter:
    return Adapter({"layer": (a, b)}, rank=a.shape[0], alpha=a.shape[0])


def one_column(values: list[float]) -> Adapter:
    """Adds `values` to the rows of a weight with one column."""
    return adapter(torch.ones(1, 1), torch.tensor(values)[:, None])


def test_bf16_by_hand() -> None:
    """Between 1 and 2 bf16 numbers lie 1/128 apart, and a half is rounded to the even one.

    Of four elements at 1, the first stays still, the second moves by less than half of that (lost),
    the third by 3/4 of it (rounded to a whole), the fourth by exactly one.
    """
    gap = 1 / 128
    w0 = {"layer": torch.ones(4, 1, dtype=torch.bfloat16)}
    found = kept(w0, one_column([0.0] * 4), one_column([0.0, gap / 4, 3 * gap / 4, gap]), nearest)
    assert found.share_lost == pytest.approx(1 / 3)
    exact_square = 1 / 16 + 9 / 16 + 1
    assert found.norm == pytest.approx(math.sqrt(2 / exact_square))
    assert found.cosine == pytest.approx((3 / 4 + 1) / math.sqrt(2 * exact_square))
    assert found.slope == pytest.approx((3 / 4 + 1) / exact_square)


def test_an_update_counts_from_where_the_adapter_was() -> None:
    """From 0.4 to 0.6 of the gap is a small update that crosses the middle, and a whole step."""
    gap = 1 / 128
    w0 = {"layer": torch.ones(1, 1, dtype=torch.bfloat16)}
    found = kept(w0, one_column([0.4 * gap]), one_column([0.6 * gap]), nearest)
    assert (found.share_lost, found.cosine) == (0.0, pytest.approx(1.0))
    assert found.norm == found.slope == pytest.approx(5.0, rel=1e-4)


def test_everything_can_be_lost_and_nothing_is_in_float32() -> None:
    small = one_column([1e-5, -1e-5])
    zero = one_column([0.0, 0.0])
    lost = kept({"layer": torch.ones(2, 1, dtype=torch.bfloat16)}, zero, small, nearest)
    assert (lost.share_lost, lost.norm, lost.cosine, lost.slope) == (1.0, 0.0, 0.0, 0.0)
    whole = kept({"layer": torch.ones(2, 1)}, zero, small, nearest)
    assert whole.share_lost == 0.0
    assert whole.slope == pytest.approx(1.0, rel=0.01)
    with pytest.raises(ValueError, match="no weight"):
        kept({"layer": torch.ones(2, 1)}, zero, zero, nearest)


def test_the_update_is_that_of_the_product_of_both_factors() -> None:
    """Against the difference of two merges in float64, with A and B moved and alpha / r of 2."""
    torch.manual_seed(0)
    w0 = torch.randn(6, 5).bfloat16()
    a0, b0 = torch.randn(2, 5), torch.randn(6, 2)
    a1, b1 = a0 + 0.1 * torch.randn(2, 5), b0 + 0.1 * torch.randn(6, 2)
    before, after = (Adapter({"layer": (a, b)}, rank=2, alpha=4) for a, b in ((a0, b0), (a1, b1)))
    exact = 2 * (b1.double() @ a1.double() - b0.double() @ a0.double())
    both = [(w0.double() + 2 * b.double() @ a.double()).bfloat16() for a, b in ((a0, b0), (a1, b1))]
    rounded = both[1].double() - both[0].double()
    found = kept({"layer": w0}, before, after, nearest)
    assert found.norm == pytest.approx(float(rounded.norm() / exact.norm()), rel=1e-5)
    assert found.slope == pytest.approx(float((rounded * exact).sum() / exact.square().sum()))
    assert found.share_lost == pytest.approx(float((rounded == 0).double().mean()))


@given(seed=st.integers(0, 2**31), size=st.floats(0.02, 100), at=st.floats(-1, 1))
@settings(max_examples=100)
def test_nothing_is_lost_of_a_large_update(seed: int, size: float, at: float) -> None:
    """bf16 numbers lie at most 2^-7 of their size apart: a change of two of that is seen."""
    torch.manual_seed(seed)
    w0 = {"layer": (at * torch.rand(8, 1)).bfloat16()}
    signs = torch.randn(8).sign()
    update = signs * size * (w0["layer"][:, 0].float().abs() + 0.1)
    found = kept(w0, one_column([0.0] * 8), one_column(update.tolist()), nearest)
    assert found.share_lost == 0.0
    assert found.cosine > 0.9
    assert 0.7 < found.slope < 1.3


def test_log_probs_that_follow_in_part() -> None:
    exact = torch.tensor([1.0, -2.0, 3.0])
    half = followed(0.5 * exact, exact)
    assert (half.slope, half.error) == (pytest.approx(0.5), pytest.approx(0.0, abs=1e-9))
    assert half.correlation == pytest.approx(1.0)
    assert half.moved == pytest.approx(math.sqrt(14 / 3))
    assert half.noise == pytest.approx(math.sqrt(14 / 12))
    still = followed(torch.zeros(3), exact)
    assert (still.slope, still.error, still.correlation) == (0.0, 0.0, 0.0)
    # 1, -2, 3 and the residuals 2, 1, 0 at right angles: the slope stays 1; error sqrt(5/2 / 14).
    noisy = followed(exact + torch.tensor([2.0, 1.0, 0.0]), exact)
    assert noisy.slope == pytest.approx(1.0)
    assert noisy.error == pytest.approx(math.sqrt(5 / 2 / 14))
    with pytest.raises(ValueError, match="moved"):
        followed(exact, torch.zeros(3))
