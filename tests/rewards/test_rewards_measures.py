import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from repo_ray.rewards.measures import calibration_error, rank_auc

#: Few distinct scores, so that ties are common.
LABELLED = st.lists(
    st.tuples(st.booleans(), st.sampled_from([-1.5, 0.0, 0.25, 0.25000001, 3.0])), min_size=1
)


@given(LABELLED)
def test_auc_is_the_share_of_pairs_in_order(rows):
    auc = rank_auc([r[0] for r in rows], [r[1] for r in rows])
    positive, negative = ([score for label, score in rows if label is k] for k in (True, False))
    if not positive or not negative:
        assert auc is None
    else:
        in_order = mannwhitneyu(positive, negative).statistic
        assert auc == pytest.approx(in_order / (len(positive) * len(negative)), abs=1e-12)


def test_auc_by_hand():
    # Pairs (positive, negative): 0.8>0.3, 0.8>0.5, 0.5>0.3, 0.5=0.5: (3 + 0.5) / 4.
    assert rank_auc([True, True, False, False], [0.8, 0.5, 0.3, 0.5]) == 0.875


def test_calibration_error_by_hand():
    # Bin [0.2, 0.3): p 0.25, truth 0.5, 2 of 3 rows; bin [0.9, 1]: p 1, truth 1.
    assert calibration_error([True, False, True], [0.25, 0.25, 1.0]) == pytest.approx(2 / 3 * 0.25)


def test_calibrated_probabilities_have_a_small_error():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    truth = rng.random(20_000) < p
    assert calibration_error(truth, p) < 0.02
    assert calibration_error(truth, p**3) > 0.1


def test_calibration_error_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        calibration_error([], [])
