"""The learner with group-relative advantages and without a value network."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from learner_cases import batch, settings
from safetensors.torch import load_file
from torch.func import functional_call
from transformers import LlamaForCausalLM

from repo_ray.learner.checkpoint import CheckpointError
from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.models.actor_critic import ActorCritic
from repo_ray.models.adapters import adapter_digest, adapter_tensors, build_blob, parse_adapter
from repo_ray.models.loading import load_base

GROUP = {"advantage": "group", "group_size": 3}
PROMPTS = ["a", "a", "b", "b", "b", "a"]
VALUE_METRICS = {
    *("value_loss", "explained_variance", "value_mean", "return_mean"),
    *("value_error", "value_diverged", "advantage_std"),
}


def grouped(seed=0, rewards=None, prompts=PROMPTS):
    return batch(seed, rewards, prompts=prompts)


def group_settings(**options):
    return settings(algorithm=GROUP | options.pop("algorithm", {}), **options)


def trained_blob(learner, seed=0):
    """An adapter of the learner's shape whose B is not 0, so that A has a gradient too."""
    torch.manual_seed(seed)
    blob = parse_adapter(learner.adapter_blob("policy"))
    tensors = {
        f"{path}.lora_{name}.weight": matrix + 0.1 * torch.randn_like(matrix)
        for path, pair in blob.modules.items()
        for name, matrix in zip("AB", pair, strict=True)
    }
    return build_blob(tensors, blob.rank, blob.alpha)


def by_hand(experiences):
    """The advantage of each reply, by a loop over its group."""
    advantages = []
    for e in experiences:
        own = [o.reward.total for o in experiences if o.prompt.prompt_id == e.prompt.prompt_id]
        advantages.append((e.reward.total - statistics.fmean(own)) / statistics.stdev(own))
    return advantages


def unpacked_loss(folder, adapter, experiences, advantages, config):
    """The clipped surrogate, one reply at a time through plain transformers with merged weights.

    Returns the loss and the A and B that it depends on, in the order of the model's modules.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    leaves, weights = [], {}
    for path, module in model.named_modules():
        if path in adapter.modules:
            a, b = (m.clone().requires_grad_(True) for m in adapter.modules[path])
            leaves += [a, b]
            weights[f"{path}.weight"] = module.weight + adapter.scale * b @ a
    total, count = torch.zeros(()), 0
    clip = config.algorithm.clip
    for e, advantage in zip(experiences, advantages, strict=True):
        rollout = e.rollout
        ids = torch.tensor([[*rollout.prompt_token_ids, *rollout.token_ids]])
        logits = functional_call(model, weights, kwargs={"input_ids": ids}).logits[0]
        log_p = (logits / config.sampling.temperature).log_softmax(-1)
        for t, (token, keep) in enumerate(zip(rollout.token_ids, rollout.loss_mask, strict=True)):
            if keep:
                new = log_p[len(rollout.prompt_token_ids) + t - 1, token]
                ratio = torch.exp(new - rollout.logprobs[t])
                held = ratio.clamp(1 - clip, 1 + clip)
                total = total - torch.minimum(ratio * advantage, held * advantage)
                count += 1
    return total / count, leaves


def test_the_gradient_is_that_of_an_unpacked_computation(folder, tmp_path):
    config = group_settings(zero_stage=0, policy_max_grad_norm=1e9)
    learner = PPOLearner(config, folder)
    learner.set_policy(trained_blob(learner))
    adapter = parse_adapter(learner.adapter_blob("policy"))
    experiences = grouped()
    result = learner.update(experiences)

    advantages = by_hand(experiences)
    for sample, e, advantage in zip(result.samples, experiences, advantages, strict=True):
        expected = [advantage if keep else 0.0 for keep in e.rollout.loss_mask]
        assert sample.advantages == pytest.approx(expected, abs=1e-5)
    loss, leaves = unpacked_loss(folder, adapter, experiences, advantages, config)
    assert result.metrics["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert 0 < result.metrics["clip_share"] < 1
    loss.backward()
    norm = math.sqrt(sum(float(leaf.grad.square().sum()) for leaf in leaves))
    assert result.metrics["grad_norm_policy"] == pytest.approx(norm, rel=1e-3)

    # After AdamW's first step its first moment is a tenth of the gradient.
    learner.save(tmp_path)
    state = load_file(tmp_path / "optimizer-0.safetensors")
    moments = [state[f"policy.{i}.exp_avg"] for i in range(len(leaves))]
    for leaf, moment in zip(leaves, moments, strict=True):
        torch.testing.assert_close(moment / 0.1, leaf.grad, atol=1e-5, rtol=1e-3)
    moved = parse_adapter(learner.adapter_blob("policy")).modules
    for path, pair in adapter.modules.items():
        for new, old in zip(moved[path], pair, strict=True):
            assert (new != old).any()


def test_there_is_no_value_network(folder, tmp_path):
    network = ActorCritic(
        load_base(folder, torch.float32, "eager"),
        group_settings().lora,
        temperature=1.0,
        chunk=8,
        entropy_gradient=False,
        critic=False,
    )
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    assert len(trainable) == len(adapter_tensors(network.model, "policy"))
    assert all(".policy." in name for name in trainable)
    assert not any("value" in name for name, _ in network.named_parameters())

    learner = PPOLearner(group_settings(), folder)
    result = learner.update(grouped())
    assert result.skipped == ""
    assert not VALUE_METRICS & result.metrics.keys()
    assert not any(name.endswith("_value") for name in result.metrics)
    for sample in result.samples:
        assert sample.old_values == sample.new_values == sample.returns == []
    with pytest.raises(KeyError, match="no adapter 'value'"):
        learner.adapter_blob("value")
    learner.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"policy.safetensors", "optimizer-0.safetensors", "rng-0.safetensors"}
    state = load_file(tmp_path / "optimizer-0.safetensors")
    assert {name.partition(".")[0] for name in state} == {"policy", "steps", "updates"}


def test_with_values_their_metrics_and_columns_are_there(folder):
    result = PPOLearner(settings(), folder).update(batch())
    assert result.metrics.keys() >= VALUE_METRICS
    assert {"grad_norm_value", "lr_value"} <= result.metrics.keys()
    assert not {"groups", "lone_groups", "equal_groups"} & result.metrics.keys()
    for sample in result.samples:
        assert len(sample.old_values) == len(sample.returns) == len(sample.new_logprobs)


def test_replies_better_than_their_group_become_likelier(folder):
    learner = PPOLearner(group_settings(algorithm={"clip": 10.0}), folder)
    # The best of group a is worse than the worst of group b: only the group counts.
    experiences = grouped(rewards=[-3.0, -9.0, 5.0, 1.0, 1.0, -9.0])
    rollouts = [e.rollout for e in experiences]
    before = [sum(x) for x in learner.logprobs_of(rollouts)]
    for _ in range(15):
        learner.update(experiences)
    after = [sum(x) for x in learner.logprobs_of(rollouts)]
    gain = [b - a for a, b in zip(before, after, strict=True)]
    assert gain[0] > 0 > max(gain[1], gain[3])
    assert gain[0] > max(gain[1], gain[5])
    assert gain[2] > max(gain[3], gain[4], 0)


def test_what_was_dropped_leaves_lone_replies_without_advantage(folder):
    learner = PPOLearner(group_settings(), folder)
    experiences = grouped(rewards=[1.5, 2.0, 3.0, 3.0, 5.0, 0.0], prompts=list("aabbca"))
    result = learner.update(experiences)
    assert result.skipped == ""
    counts = {name: result.metrics[name] for name in ("groups", "lone_groups", "equal_groups")}
    assert counts == {"groups": 3.0, "lone_groups": 1.0, "equal_groups": 1.0}
    zero = [not any(sample.advantages) for sample in result.samples]
    assert zero == [False, False, True, True, True, False]
    assert (result.metrics["advantages_zero"], result.warnings) == (0.0, [])

    equal = learner.update(grouped(rewards=[1.5, 2.0, 1.5, 1.5, 2.0, 5.0], prompts=list("abaabc")))
    assert (equal.metrics["equal_groups"], equal.metrics["advantages_zero"]) == (2.0, 1.0)
    assert equal.warnings == ["every advantage is 0: the policy learned nothing from this batch"]


def test_a_reply_counts_with_the_sum_of_the_rewards_placed_in_it(folder):
    experiences = grouped(rewards=[0.0, 0.0, 1.0, 2.0, 3.0, 9.0])
    # Group a is then 3, 1 and 2, whatever the totals are.
    for row, placed in {0: ((0, 2.5), (1, 0.5)), 1: ((1, 1.0),), 5: ((0, 3.0), (1, -1.0))}.items():
        experiences[row] = replace(experiences[row], token_rewards=placed)
    samples = PPOLearner(group_settings(), folder).update(experiences).samples
    first = [sample.advantages[0] for sample in samples]
    assert first == pytest.approx([1, -1, -1, 0, 1, 0], abs=1e-5)


def test_a_batch_without_any_pair_of_replies_is_skipped(folder):
    learner = PPOLearner(group_settings(), folder)
    before = adapter_digest(learner.adapter_blob("policy"))
    result = learner.update(batch())
    assert "no prompt has two replies" in result.skipped
    assert adapter_digest(learner.adapter_blob("policy")) == before


def test_micro_batches_do_not_change_the_update(folder):
    results = []
    for budget in (16, 1000):
        learner = PPOLearner(group_settings(micro_batch_tokens=budget), folder)
        metrics = learner.update(grouped()).metrics
        results.append((parse_adapter(learner.adapter_blob("policy")).modules, metrics))
    (small, one), (large, other) = results
    for path, pair in small.items():
        for a, b in zip(pair, large[path], strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)
    for name in ("policy_loss", "entropy", "grad_norm_policy", "groups"):
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("stage", [0, 3])
def test_resumed_learner_continues_bit_for_bit(folder, tmp_path, stage):
    config = group_settings(algorithm={"minibatches": 2}, zero_stage=stage)
    learner = PPOLearner(config, folder)
    learner.update(grouped(0))
    learner.save(tmp_path)
    expected = learner.update(grouped(1))
    resumed = PPOLearner(config, folder)
    resumed.load(tmp_path)
    assert resumed.update(grouped(1)).samples == expected.samples
    digests = {adapter_digest(x.adapter_blob("policy")) for x in (resumed, learner)}
    assert len(digests) == 1


def test_a_checkpoint_of_the_other_kind_is_refused(folder, tmp_path):
    with_values, without = PPOLearner(settings(), folder), PPOLearner(group_settings(), folder)
    with_values.save(tmp_path / "gae")
    without.save(tmp_path / "group")
    before = adapter_digest(without.adapter_blob("policy"))
    with pytest.raises(CheckpointError, match=r"gae: it holds a value network, which .* group"):
        without.load(tmp_path / "gae")
    with pytest.raises(CheckpointError, match=r"group: value_head\.safetensors is missing"):
        with_values.load(tmp_path / "group")
    assert adapter_digest(without.adapter_blob("policy")) == before
