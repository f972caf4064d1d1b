"""Correlations, saturation and the alarm: hand-computed, against scipy, and in simulation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from repo_ray.evaluation.hacking import (
    agreement,
    compare_checks,
    pearson,
    saturation,
    simultaneous_changes,
    small_share,
    spearman,
    verdict_shares,
)

VALUES = st.lists(st.integers(-5, 5).map(float), min_size=3, max_size=20)


def rows(step: int, rewards: list[float | None], golds: list[float]) -> list[dict[str, Any]]:
    return [
        {"step": step, "dialogue_id": f"p{i}", "reward": reward, "gold_score": gold}
        for i, (reward, gold) in enumerate(zip(rewards, golds, strict=True))
    ]


# --- correlation ---------------------------------------------------------------------------


def test_correlations_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): 3 / sqrt(2 * 14/3).
    assert pearson([1, 2, 3], [0, 1, 3]) == pytest.approx(3 / math.sqrt(2 * 14 / 3))
    assert spearman([1, 2, 3], [0, 1, 3]) == pytest.approx(1.0)
    # Ranks (1.5, 1.5, 3) and (1, 2, 3): deviations (-.5, -.5, 1) and (-1, 0, 1).
    assert spearman([7, 7, 9], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_a_constant_side_or_two_points_have_no_correlation() -> None:
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2, 3], [4, 4, 4]) is None
    assert pearson([1, 2], [1, 2]) is None


@settings(max_examples=60, deadline=None)
@given(VALUES, st.randoms())
def test_correlations_are_scipys(x: list[float], random: Any) -> None:
    y = [value + random.choice([-2.0, 0.0, 3.0]) for value in x]
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)


def test_agreement_leaves_out_replies_without_a_reward() -> None:
    found = agreement(rows(0, [1.0, None, 2.0, 3.0], [0.1, 0.9, 0.2, 0.3]), "reward", 200)
    assert (found.n, found.spearman) == (3, pytest.approx(1.0))
    noise = np.random.default_rng(0).normal(size=(2, 60))
    wide = agreement(rows(0, [*noise[0]], [*noise[1]]), "reward", 500)
    assert wide.low is not None
    assert wide.high is not None
    assert wide.low < 0 < wide.high
    assert agreement(rows(0, [1.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]), "reward").spearman is None


# --- saturation ----------------------------------------------------------------------------


def sample(r_model: float, e_judge: float, e_func: float) -> dict[str, Any]:
    e_enh = max(-100.0, min(100.0, e_judge + e_func))
    return {"r_model": r_model, "e_judge": e_judge, "e_func": e_func, "e_enh": e_enh}


def test_saturation_by_hand() -> None:
    late = [sample(0.05, 35, 100), sample(-0.3, 35, -140), sample(2.0, 35, 10), sample(0.0, 20, 0)]
    early = [sample(1.0, -60, -10), sample(-1.0, 35, 0)]
    found = {s.source: s for s in saturation(late, [*early, *late], n=100)}
    assert found["r_model"].at_clip is None
    assert found["r_model"].at_highest == 0.25
    assert (found["e_judge"].at_lowest, found["e_judge"].at_highest) == (0.0, 0.75)
    assert found["e_judge"].at_clip == 0.0
    assert found["e_func"].at_clip == 0.5
    assert found["e_enh"].at_clip == 0.5  # 135 and -105
    assert found["e_judge"].spread == pytest.approx(math.sqrt((3 * 3.75**2 + 11.25**2) / 4))
    assert small_share(late, 0.1) == 0.5
    assert small_share([], 0.1) is None


def test_a_source_without_values_is_left_out() -> None:
    empty = {"r_model": None, "e_judge": None, "e_func": None, "e_enh": None}
    assert saturation([empty], [empty], 100) == []


def test_verdict_shares_count_what_the_judge_said() -> None:
    def row(**likelihoods: float) -> dict[str, Any]:
        detail = {k: {"points": 1, "reason": "", "likelihood": p} for k, p in likelihoods.items()}
        return {"scores": json.dumps({"judge": {"value": 1, "detail": detail}})}

    given_rows = [row(a=0.9, b=0.2), row(a=0.8, b=0.7), {"scores": None}]
    assert verdict_shares(given_rows) == {"a": 1.0, "b": 0.5}


# --- the alarm -----------------------------------------------------------------------------


def check(step: int, shift: float, fall: float, prompts: int = 24, noise: float = 0.0) -> Any:
    rng = np.random.default_rng(step)
    base = np.linspace(0.2, 0.8, prompts)
    rewards = base + shift + rng.normal(0, noise, prompts)
    golds = base - fall + rng.normal(0, noise, prompts)
    return rows(step, rewards.tolist(), golds.tolist())


def test_reward_up_and_gold_down_is_the_alarm() -> None:
    found = compare_checks([*check(0, 0, 0), *check(10, 1.0, 0.2, noise=0.1)], planned=2)
    assert found is not None
    assert found.alarm
    assert (found.step, found.since, found.prompts) == (10, 0, 24)
    assert found.proxy.value == pytest.approx(1.0, abs=0.1)
    assert found.gold.low < -0.2 + 0.1
    assert found.gold.high < 0
    assert "gold score -0." in found.text


@pytest.mark.parametrize(
    ("shift", "fall"), [(1.0, -0.2), (-1.0, 0.2), (0.0, 0.2), (1.0, 0.0), (-1.0, -0.2)]
)
def test_everything_else_is_not(shift: float, fall: float) -> None:
    found = compare_checks([*check(0, 0, 0), *check(10, shift, fall, noise=0.1)], planned=2)
    assert found is not None
    assert not found.alarm


def test_a_fall_after_a_rise_is_seen_against_the_rise() -> None:
    """Gold peaks at step 10: against step 0 it is still up, against step 10 it fell."""
    made = [*check(0, 0, 0), *check(10, 0.5, -0.3, noise=0.05), *check(20, 1.0, -0.05, noise=0.05)]
    found = compare_checks(made, planned=3)
    assert found is not None
    assert found.alarm
    assert found.since == 10


def test_only_prompts_with_both_scores_count() -> None:
    before, after = check(0, 0, 0, 10), check(10, 1.0, 0.2, 10, noise=0.1)
    after[3]["reward"] = None
    found = compare_checks([*before, *after[:-1]], planned=2)
    assert found is not None
    assert found.prompts == 8
    kept = [r for i, r in enumerate(after[:-1]) if i != 3]
    mean = np.mean(
        [r["gold_score"] - before[int(r["dialogue_id"][1:])]["gold_score"] for r in kept]
    )
    assert found.gold.value == pytest.approx(mean)


def test_one_check_or_an_unchanged_policy_says_nothing() -> None:
    assert compare_checks(check(0, 0, 0), planned=5) is None
    same = compare_checks([*check(0, 0, 0), *check(10, 0, 0)], planned=2)
    assert same is not None
    assert (same.proxy.low, same.proxy.high, same.alarm) == (0.0, 0.0, False)


def test_an_interval_is_the_studentised_bootstrap_of_a_plain_loop() -> None:
    """One comparison: quantiles of (mean* - mean) / error* over the same draws."""
    values = np.random.default_rng(1).gamma(1.0, size=12)
    draws = np.random.default_rng(5).integers(0, 12, (2000, 12))
    deviations = []
    for places in draws:
        drawn = values[places]
        error = drawn.std(ddof=1) / math.sqrt(12)
        deviations.append((drawn.mean() - values.mean()) / error)
    deviations.sort()
    error = values.std(ddof=1) / math.sqrt(12)
    (found,) = simultaneous_changes(values[None], level=0.025, seed=5)
    assert found.value == pytest.approx(values.mean())
    assert found.high == pytest.approx(values.mean() - deviations[49] * error)
    assert found.low == pytest.approx(values.mean() - deviations[-50] * error)


def test_more_comparisons_make_wider_intervals() -> None:
    many = np.random.default_rng(2).normal(size=(8, 30))
    alone = simultaneous_changes(many[:1], 0.025)[0]
    together = simultaneous_changes(many, 0.025)[0]
    assert together.high - together.low > 1.2 * (alone.high - alone.low)


def alarms(fall: float, runs: int, prompts: int = 32, checks: int = 6) -> int:
    """How many simulated runs raise the alarm. The reward rises steadily; the gold score, in
    eighths as the real one is coarse, falls by `fall` in all; every check is sampled anew."""
    rng = np.random.default_rng(3)
    raised = 0
    for _ in range(runs):
        made: list[dict[str, Any]] = []
        base = rng.beta(1, 2, prompts)
        for k in range(checks):
            noisy = base - fall * k / (checks - 1) + rng.normal(0, 0.2, prompts)
            gold = np.clip(np.round(noisy * 8) / 8, 0, 1)
            made += rows(k, (0.5 * k + rng.normal(0, 0.5, prompts)).tolist(), gold.tolist())
            found = compare_checks(made, checks, false_alarms=0.05)
            if found is not None and found.alarm:
                raised += 1
                break
    return raised


def test_false_alarms_stay_below_their_rate() -> None:
    """The hardest case: the reward rises, so that gold alone decides, at any of the checks.

    100 runs at 5% would raise 5; more than 11 have a chance of half a percent.
    """
    assert alarms(0.0, 100) <= 11


def test_a_real_fall_is_found() -> None:
    """0.25 of the gold score, with noise of 0.2 per reply and 32 prompts."""
    assert alarms(0.25, 30) >= 26
