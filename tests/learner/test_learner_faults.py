"""What an update does with numbers that cannot be learned from, and how it counts them."""

import math
import statistics
from dataclasses import replace

import pytest
from learner_cases import batch, settings

from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.models.adapters import adapter_digest


def applied_and_skipped(result):
    return result.metrics["steps_applied"], result.metrics["steps_skipped"]


def test_nothing_is_applied_where_nothing_can_be_learned(folder):
    learner = PPOLearner(settings(), folder)
    assert applied_and_skipped(learner.update(batch())) == (1, 0)
    before = adapter_digest(learner.adapter_blob("policy"))
    unsampled, uncounted = batch(), batch()
    unsampled[2] = replace(
        unsampled[2], rollout=replace(unsampled[2].rollout, logprobs=(-math.inf,) * 9)
    )
    for i, e in enumerate(uncounted):
        silent = replace(e.rollout, loss_mask=(False,) * len(e.rollout.token_ids))
        uncounted[i] = replace(e, rollout=silent)
    cases = [
        ([], "empty batch", (0, 0)),
        (uncounted, "empty batch", (0, 0)),
        (batch(rewards=[1, 2, 3, math.nan, 5, 6]), "sample s3: reward is nan", (0, 0)),
        (unsampled, "sample s2: a behaviour log-probability is not finite", (0, 0)),
        (batch(rewards=[1e30, 2, 3, 4, 5, 6]), "non-finite gradient", (0, 1)),
    ]
    for experiences, message, steps in cases:
        result = learner.update(experiences)
        assert message in result.skipped
        assert result.metrics["skipped"] == 1.0
        assert applied_and_skipped(result) == steps
        assert adapter_digest(learner.adapter_blob("policy")) == before
    assert learner.update(batch(1)).skipped == ""
    assert adapter_digest(learner.adapter_blob("policy")) != before


def test_an_update_with_one_bad_minibatch_of_three_is_applied_and_says_so(folder):
    learner = PPOLearner(settings(algorithm={"minibatches": 3}), folder)
    before = adapter_digest(learner.adapter_blob("value"))
    result = learner.update(batch(rewards=[1e30, 2, 3, 4, 5, 6]))
    assert applied_and_skipped(result) == (2, 1)
    assert result.metrics["optimizer_steps"] == 2
    assert (result.skipped, result.metrics["skipped"]) == ("", 0.0)
    assert result.warnings == ["1 of 3 optimizer steps skipped: non-finite gradient"]
    assert adapter_digest(learner.adapter_blob("value")) != before


def test_advantages_without_variance_move_no_policy_and_are_counted(folder):
    # Undiscounted, with lambda 1 and values that start at 0, an advantage is its reply's reward.
    algorithm = {"gamma": 1.0, "gae_lambda": 1.0}
    learner = PPOLearner(settings(algorithm=algorithm), folder)
    before = adapter_digest(learner.adapter_blob("policy"))
    result = learner.update(batch(rewards=[30.1] * 6))
    assert result.skipped == ""
    assert result.metrics["advantages_zero"] == 1.0
    assert result.metrics["advantage_std"] == pytest.approx(0.0, abs=1e-9)
    assert result.warnings == ["every advantage is 0: the policy learned nothing from this batch"]
    assert adapter_digest(learner.adapter_blob("policy")) == before

    learner = PPOLearner(settings(algorithm=algorithm), folder)
    result = learner.update(experiences := batch())
    flat = [e.reward.total for e in experiences for _ in range(sum(e.rollout.loss_mask))]
    assert result.metrics["advantage_std"] == pytest.approx(statistics.pstdev(flat))
    assert result.metrics["value_error"] == pytest.approx(math.hypot(*flat) / len(flat) ** 0.5)
    assert (result.metrics["advantages_zero"], result.warnings) == (0.0, [])


def test_a_value_network_that_diverges_is_told_and_the_run_goes_on(folder):
    learner = PPOLearner(settings(value_lr=5.0), folder)
    results = [learner.update(batch(seed)) for seed in range(4)]
    assert [r.metrics["value_diverged"] for r in results] == [0.0, 1.0, 1.0, 1.0]
    assert [r.skipped for r in results] == [""] * 4
    assert results[0].warnings == []
    assert all("lower learner.value_lr (now 5)" in r.warnings[0] for r in results[1:])


def test_values_that_leave_the_numbers_are_never_learned_from(folder):
    learner = PPOLearner(settings(value_lr=1e12), folder)
    learner.update(batch())
    before = adapter_digest(learner.adapter_blob("policy"))
    for seed in (1, 2):
        result = learner.update(batch(seed))
        assert result.skipped == "non-finite gradient"
        assert "the value network diverges" in result.warnings[0]
    assert adapter_digest(learner.adapter_blob("policy")) == before
