"""Dithered rounding: right in the mean, always the same, and exact where bf16 is."""

from __future__ import annotations

import pytest
import torch

from repo_ray.models.rounding import round_dithered_


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("above", [0.01, 0.25, 0.9])
def test_dithering_rounds_up_as_often_as_a_number_lies_above(sign: float, above: float) -> None:
    gap = 1 / 128
    rounded = round_dithered_(torch.full((400, 100), 1 + above * gap) * sign)
    assert rounded.dtype == torch.bfloat16
    assert set((rounded.float() * sign).unique().tolist()) == {1.0, 1 + gap}
    up = rounded.float().abs() > 1
    assert float(up.double().mean()) == pytest.approx(above, abs=0.002)
    # In every row and column too, where only 100 and 400 thresholds are drawn.
    assert float((up.double().mean(1) - above).abs().max()) < 0.05
    assert float((up.double().mean(0) - above).abs().max()) < 0.02


def test_dithering_follows_a_small_update_that_the_nearest_number_loses() -> None:
    """A product of two factors a hundredth of the gap in size, seen by random inputs."""
    torch.manual_seed(0)
    w0 = torch.empty(256, 512).uniform_(1, 2).bfloat16()
    update = 1e-4 * torch.randn(256, 4) @ torch.randn(4, 512)
    x = update.T @ torch.randn(256, 64)
    exact = update @ x
    for rounded, slope in ((round_dithered_(w0 + update), 1.0), ((w0 + update).bfloat16(), 0.0)):
        moved = (rounded.float() - w0.float()) @ x
        found = float((moved * exact).sum() / exact.square().sum())
        assert found == pytest.approx(slope, abs=0.1)


def test_dithering_is_always_the_same_and_leaves_what_bf16_holds() -> None:
    torch.manual_seed(0)
    held = torch.randn(50, 40).bfloat16()
    assert torch.equal(round_dithered_(held.float()), held)
    exact = torch.randn(50, 40)
    one = round_dithered_(exact.clone())
    assert torch.equal(one, round_dithered_(exact.clone()))
    near = (one.float() - exact).abs() < exact.abs() * 2**-7
    assert bool(near.all())
    assert bool((round_dithered_(exact + 1e-4) >= one).all())
