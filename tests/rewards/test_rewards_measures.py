import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from repo_ray.rewards.measures import calibration_error, rank_auc

#: Few distinct scores, so that ties are common.
LABELLED = st.lists(
    st.tuples(st.booleans(), st.sampled_from([-1.5, 0.0, 0.25, 0.25000001, 3.0])), min_size=1
)


@given(LABELLED)
def test_auc_equals_scikit_learn(rows):
    labels, scores = [r[0] for r in rows], [r[1] for r in rows]
    auc = rank_auc(labels, scores)
    if len(set(labels)) < 2:
        assert auc is None
    else:
        assert auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


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
