"""The reward formula against hand-computed values and its properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.config.rewards import EnhancementConfig
from repo_ray.rewards.enhancement import combine, enhance

REWARDS = st.floats(-1e6, 1e6)
POINTS = st.floats(-1e4, 1e4)


@pytest.mark.parametrize(
    ("r_model", "e_judge", "e_func", "total", "multiplier"),
    [
        (2.0, 30.0, 20.0, 3.0, 1.5),  # good reply, merits: raised
        (2.0, -30.0, -20.0, 1.0, 0.5),  # good reply, deductions: lowered
        (-2.0, 30.0, 20.0, -1.0, 0.5),  # bad reply, merits: less bad
        (-2.0, -30.0, -20.0, -3.0, 1.5),  # bad reply, deductions: worse
        (2.0, 60.0, 40.0, 4.0, 2.0),  # at the edge
        (2.0, 60.0, 90.0, 4.0, 2.0),  # beyond it
        (2.0, -60.0, -90.0, 0.0, 0.0),
        (-2.0, -60.0, -90.0, -4.0, 2.0),
        (-2.0, 60.0, 90.0, 0.0, 0.0),
        (2.0, 150.0, -100.0, 3.0, 1.5),  # the sum is clipped, not its parts
        (0.0, 80.0, 0.0, 0.0, 1.0),
        (1.5, 0.0, 0.0, 1.5, 1.0),
    ],
)
def test_values(
    r_model: float, e_judge: float, e_func: float, total: float, multiplier: float
) -> None:
    reward = enhance(r_model, e_judge, e_func)
    assert reward.total == pytest.approx(total, abs=1e-12)
    assert reward.multiplier == pytest.approx(multiplier, abs=1e-12)
    assert (reward.r_model, reward.e_judge, reward.e_func) == (r_model, e_judge, e_func)


def test_n_is_clip_and_scale() -> None:
    reward = enhance(2.0, 30.0, 0.0, n=20.0)
    assert (reward.e_enh, reward.total, reward.multiplier) == (20.0, 4.0, 2.0)


@given(REWARDS, POINTS, POINTS)
def test_sign_never_flips_and_size_at_most_doubles(r: float, j: float, f: float) -> None:
    reward = enhance(r, j, f)
    assert reward.total * r >= 0
    assert abs(reward.total) <= 2 * abs(r)
    assert 0 <= reward.multiplier <= 2
    assert -100 <= reward.e_enh <= 100
    assert reward.total == pytest.approx(r * reward.multiplier, rel=1e-9, abs=1e-9)


@given(REWARDS, POINTS, POINTS, st.floats(0, 1e4))
def test_more_points_never_lower_the_reward(r: float, j: float, f: float, more: float) -> None:
    for config in _configs():
        base = combine(config, r, j, f).total
        assert combine(config, r, j + more, f).total >= base
        assert combine(config, r, j, f + more).total >= base


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_inputs_that_are_not_finite_are_refused(position: int, bad: float) -> None:
    inputs = [1.0, 1.0, 1.0]
    inputs[position] = bad
    for config in _configs():
        with pytest.raises(ValueError, match="finite"):
            combine(config, *inputs)


@pytest.mark.parametrize("n", [0.0, -1.0, math.nan, math.inf])
def test_bad_n_is_refused(n: float) -> None:
    with pytest.raises(ValueError, match="n must be"):
        enhance(1.0, 1.0, 1.0, n)


@pytest.mark.parametrize(
    ("how", "inputs", "total"),
    [
        ("repo", (2.0, 30.0, 20.0), 3.0),
        ("weighted_sum", (2.0, 30.0, 20.0), 2.5),
        ("weighted_sum", (0.0, -80.0, -80.0), -1.0),
        ("normalised_sum", (0.5, 50.0, -300.0), (math.tanh(0.5) + 0.5 - 1.0) / 3),
        ("rule_gated", (2.0, -50.0, 0.0), 1.5),
        ("rule_gated", (2.0, 50.0, 40.0), 2.5),
        ("rule_gated", (2.0, 50.0, -40.0), -0.4),
        ("rule_gated", (-2.0, 50.0, -40.0), -1.9),
    ],
)
def test_combinations(how: str, inputs: tuple[float, float, float], total: float) -> None:
    reward = combine(EnhancementConfig.model_validate({"combine": how}), *inputs)
    assert reward.total == pytest.approx(total)
    if how != "repo":
        assert reward.multiplier == 1.0


def _configs() -> list[EnhancementConfig]:
    names = ("repo", "weighted_sum", "normalised_sum", "rule_gated")
    return [EnhancementConfig.model_validate({"combine": name}) for name in names]
