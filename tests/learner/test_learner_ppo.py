import math
import multiprocessing as mp
import socket
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from learner_cases import SAMPLES, batch, settings
from transformers import LlamaForCausalLM

from repo_ray.learner.checkpoint import CheckpointError
from repo_ray.learner.engine import Rank
from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.models import packing
from repo_ray.models.actor_critic import SequenceBatch
from repo_ray.models.adapters import adapter_digest, adapter_parameters, parse_adapter
from repo_ray.records import Prompt


def recompute(experiences, samples, algorithm):
    """Losses from saved columns, token by token in plain Python (behaviour ratio, terminal)."""
    advantages, returns = [], []
    for e, s in zip(experiences, samples, strict=True):
        at = [t for t, keep in enumerate(e.rollout.loss_mask) if keep]
        running, following = 0.0, 0.0
        found = {}
        for t in reversed(at):
            reward = e.reward.total if t == at[-1] else 0.0
            delta = reward + algorithm.gamma * following - s.old_values[t]
            running = delta + algorithm.gamma * algorithm.gae_lambda * running
            following = s.old_values[t]
            found[t] = running
        advantages.append(found)
        returns.append({t: a + s.old_values[t] for t, a in found.items()})
    flat = [a for found in advantages for a in found.values()]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat))
    policy = value = 0.0
    for e, s, found, target in zip(experiences, samples, advantages, returns, strict=True):
        for t, raw in found.items():
            a = (raw - mean) / std
            assert s.advantages[t] == pytest.approx(a, abs=1e-4)
            assert s.returns[t] == pytest.approx(target[t], abs=1e-5)
            ratio = math.exp(s.new_logprobs[t] - e.rollout.logprobs[t])
            held = min(max(ratio, 1 - algorithm.clip), 1 + algorithm.clip)
            policy -= min(ratio * a, held * a)
            move = s.new_values[t] - s.old_values[t]
            near = s.old_values[t] + min(max(move, -algorithm.value_clip), algorithm.value_clip)
            value += 0.5 * max((s.new_values[t] - target[t]) ** 2, (near - target[t]) ** 2)
    return policy / len(flat), value / len(flat)


def test_losses_can_be_recomputed_from_what_is_saved(folder):
    config = settings()
    learner = PPOLearner(config, folder)
    for seed in range(3):
        experiences = batch(seed)
        result = learner.update(experiences)
        assert result.skipped == ""
        assert [s.sample_id for s in result.samples] == [f"s{i}" for i in range(SAMPLES)]
        policy, value = recompute(experiences, result.samples, config.algorithm)
        assert result.metrics["policy_loss"] == pytest.approx(policy, abs=1e-4)
        assert result.metrics["value_loss"] == pytest.approx(value, abs=1e-5)
    assert result.metrics["tokens"] == sum(sum(e.rollout.loss_mask) for e in experiences)
    assert any(abs(v) > 1e-4 for s in result.samples for v in s.old_values)


def test_logprobs_are_the_models_own(folder):
    learner = PPOLearner(settings(), folder)
    rollouts = [e.rollout for e in batch()]
    result = learner.update(batch())  # adapters start without effect: the base is the reference
    model = LlamaForCausalLM.from_pretrained(folder)
    for rollout, base, sample in zip(
        rollouts, learner.logprobs_of(rollouts, "base"), result.samples, strict=True
    ):
        ids = torch.tensor([[*rollout.prompt_token_ids, *rollout.token_ids]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
        first = len(rollout.prompt_token_ids)

        def expected(
            temperature: float, logits=logits, first=first, reply=rollout.token_ids
        ) -> list[float]:
            log_p = (logits / temperature).log_softmax(-1)
            return [float(log_p[first + t - 1, i]) for t, i in enumerate(reply)]

        assert base == pytest.approx(expected(1.0), abs=1e-4)
        assert sample.new_logprobs == pytest.approx(expected(0.8), abs=1e-4)
        assert sample.proximal_logprobs == sample.new_logprobs


def test_rewarded_replies_become_likelier_and_values_follow(folder):
    learner = PPOLearner(settings(algorithm={"clip": 10.0}), folder)
    rewards = [2.0, -2.0, 2.0, -2.0, 2.0, -2.0]
    experiences = batch(rewards=rewards)
    rollouts = [e.rollout for e in experiences]
    before = [sum(x) for x in learner.logprobs_of(rollouts)]
    results = [learner.update(experiences) for _ in range(15)]
    after = [sum(x) for x in learner.logprobs_of(rollouts)]
    for reward, a, b in zip(rewards, before, after, strict=True):
        assert (b - a) * reward > 0
    assert results[-1].metrics["value_loss"] < results[0].metrics["value_loss"] / 2
    assert results[0].metrics["lr_policy"] == pytest.approx(2.5e-3)
    assert results[1].metrics["lr_policy"] == pytest.approx(5e-3)


def snapshot(learner):
    return {n: parse_adapter(learner.adapter_blob(n)).modules for n in ("policy", "value")}


def assert_close(got, want, **tolerance):
    for name, modules in want.items():
        for path, pair in modules.items():
            for a, b in zip(got[name][path], pair, strict=True):
                torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize(
    "algorithm",
    [{}, {"ratio": "decoupled", "ppo_epochs": 2, "minibatches": 2, "entropy_coef": 0.1}],
)
def test_micro_batches_do_not_change_the_update(folder, algorithm):
    results = []
    for budget in (16, 1000):
        learner = PPOLearner(settings(algorithm=algorithm, micro_batch_tokens=budget), folder)
        metrics = learner.update(batch()).metrics
        results.append((snapshot(learner), metrics))
    (small, one), (large, other) = results
    # Adam's first steps have the size of the learning rate; rounding may tip tiny gradients.
    assert_close(small, large, atol=2e-4, rtol=1e-3)
    for name in ("policy_loss", "value_loss", "entropy", "ess", "grad_norm_policy", "approx_kl"):
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_prompts_that_are_shared_change_nothing(folder, attention):
    """The update from replies to one prompt is that from each reply on its own."""
    prompt = tuple(range(1, 41))
    samples = [
        replace(e, rollout=replace(e.rollout, prompt_token_ids=prompt), prompt=Prompt("p", ()))
        for e in batch()
    ]
    updates = []
    for shared in (16, 10_000):  # with this many tokens in common, and never
        with patch.object(packing, "SHARED", shared):
            learner = PPOLearner(
                settings(attention=attention, algorithm={"entropy_coef": 0.1}), folder
            )
            metrics = learner.update(samples).metrics
        updates.append((metrics, snapshot(learner)))
    (together, one), (apart, other) = updates
    for name in ("policy_loss", "value_loss", "entropy", "grad_norm_policy", "grad_norm_value"):
        assert together[name] == pytest.approx(apart[name], rel=1e-3, abs=1e-6)
    assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_values_learn_from_the_values_before_the_step(folder):
    """The step's own value pass gives them: loss and gradient are those of a pass before it."""
    algorithm = {"gamma": 1.0, "gae_lambda": 1.0}
    config = settings(algorithm=algorithm, zero_stage=0, micro_batch_tokens=24)
    learner, samples = PPOLearner(config, folder), batch()
    learner.update(batch(1))  # the head starts at zero, where the adapter has no gradient
    network = learner._engine.module
    part = SequenceBatch.of([e.rollout for e in samples], torch.device("cpu"))
    values, _ = network(part, "value")
    returns = torch.cat([torch.full((len(e.rollout.token_ids),), e.reward.total) for e in samples])
    counted = torch.tensor([kept for e in samples for kept in e.rollout.loss_mask])
    # A return is the reward then, whatever the values.
    loss = (0.5 * (values - returns) ** 2)[counted].mean()
    parameters = [*adapter_parameters(network.model, "value"), *network.value_head.parameters()]
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
    metrics = learner.update(samples).metrics
    assert metrics["value_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert metrics["grad_norm_value"] == pytest.approx(float(norm), rel=1e-4)


def test_compiled_layers_change_nothing(folder):
    plain = PPOLearner(settings(algorithm={"entropy_coef": 0.1}), folder)
    compiled = PPOLearner(settings(algorithm={"entropy_coef": 0.1}, compile=True), folder)
    for seed in range(2):  # of other lengths
        expected, got = plain.update(batch(seed)), compiled.update(batch(seed))
        for name in ("policy_loss", "value_loss", "entropy", "grad_norm_policy", "grad_norm_value"):
            assert got.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-3, abs=1e-6)
    assert_close(snapshot(compiled), snapshot(plain), atol=2e-4, rtol=1e-3)


def test_decoupled_proximal_is_the_policy_before_the_update(folder):
    algorithm = {"ratio": "decoupled", "ppo_epochs": 2, "minibatches": 3}
    # At temperature 1 the probe's log-probs are those that the update works with.
    learner = PPOLearner(settings(algorithm=algorithm, temperature=1.0), folder)
    learner.update(batch())
    rollouts = [e.rollout for e in batch(1)]
    before = learner.logprobs_of(rollouts)
    result = learner.update(batch(1))
    for sample, expected in zip(result.samples, before, strict=True):
        assert sample.proximal_logprobs == pytest.approx(expected, abs=1e-5)
    assert result.metrics["optimizer_steps"] == 12
    assert result.metrics["approx_kl"] > 0


def test_truncation_bootstraps_cut_replies_only(folder):
    returns = {}
    for truncation in ("terminal", "bootstrap"):
        learner = PPOLearner(settings(algorithm={"truncation": truncation}), folder)
        learner.update(batch())
        result = learner.update(batch(1))
        returns[truncation] = [s.returns for s in result.samples]
    for row, (a, b) in enumerate(zip(returns["terminal"], returns["bootstrap"], strict=True)):
        # Values start at 0, so the first update is the same and only the second can differ.
        if row == 1:
            assert a != pytest.approx(b, abs=1e-6)
        else:
            assert a == b


def test_rewards_are_where_the_sample_places_them(folder):
    algorithm = {"gamma": 1.0, "gae_lambda": 1.0, "whiten_advantages": False}
    learner = PPOLearner(settings(algorithm=algorithm), folder)
    experiences = batch(1)
    size = len(experiences[0].rollout.token_ids)
    experiences[0] = replace(experiences[0], token_rewards=((1, 2.0), (size - 1, -0.5)))
    samples = learner.update(experiences).samples
    # Undiscounted, with lambda 1: a token's return is the sum of the rewards from there on.
    assert samples[0].returns == pytest.approx([1.5, 1.5] + [-0.5] * (size - 2), abs=1e-5)
    total = experiences[3].reward.total
    assert samples[3].returns == pytest.approx([total] * len(samples[3].returns), abs=1e-5)
    experiences[0] = replace(experiences[0], token_rewards=((0, math.nan),))
    assert "sample s0: a token's reward" in learner.update(experiences).skipped


@pytest.mark.parametrize(("stage", "dtype"), [(2, "bfloat16"), (3, "float32")])
def test_resumed_learner_continues_bit_for_bit(folder, tmp_path, stage, dtype):
    config = settings(dtype, {"minibatches": 2}, zero_stage=stage)
    learner = PPOLearner(config, folder)
    learner.update(batch(0))
    learner.update(batch(1))
    learner.save(tmp_path / "state")
    expected = learner.update(batch(2))

    resumed = PPOLearner(config, folder)
    resumed.load(tmp_path / "state")
    assert resumed.updates == 2
    result = resumed.update(batch(2))
    assert result.samples == expected.samples
    for name in ("policy", "value"):
        assert adapter_digest(resumed.adapter_blob(name)) == adapter_digest(
            learner.adapter_blob(name)
        )
    timing = {"seconds", "tokens_per_s"}
    assert {k: v for k, v in result.metrics.items() if k not in timing} == {
        k: v for k, v in expected.metrics.items() if k not in timing
    }


def test_faulty_checkpoints_are_named(folder, tmp_path):
    learner = PPOLearner(settings(), folder)
    learner.update(batch())
    with pytest.raises(CheckpointError, match=r"policy\.safetensors"):
        learner.load(tmp_path)
    learner.save(tmp_path)
    (tmp_path / "optimizer-0.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match=r"optimizer-0\.safetensors"):
        learner.load(tmp_path)
    learner.save(tmp_path)
    with pytest.raises(CheckpointError, match="ZeRO stage"):
        PPOLearner(settings(zero_stage=0), folder).load(tmp_path)


def test_warm_start_replaces_the_policy_alone(folder):
    trained = PPOLearner(settings(), folder)
    trained.update(batch())
    blob = trained.adapter_blob("policy")
    learner = PPOLearner(settings(zero_stage=3), folder)
    value = adapter_digest(learner.adapter_blob("value"))
    learner.set_policy(blob)
    assert adapter_digest(learner.adapter_blob("policy")) == adapter_digest(blob)
    assert adapter_digest(learner.adapter_blob("value")) == value
    rollouts = [e.rollout for e in batch()]
    for a, b in zip(learner.logprobs_of(rollouts), trained.logprobs_of(rollouts), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    learner.update(batch(1))  # the optimizer works on the new weights, not on a stale copy
    trained.set_policy(blob)
    moved = parse_adapter(learner.adapter_blob("policy")).modules
    for path, (a, b) in parse_adapter(blob).modules.items():
        for new, old in zip(moved[path], (a, b), strict=True):
            assert float((new - old).abs().max()) <= 1.1 * 5e-3


# --- two ranks -------------------------------------------------------------------------

#: An odd number, so that one rank has to work on the filler.
TWO_RANK_SAMPLES = 5


#: By estimator: settings, the prompts of the samples, the adapters that are trained.
ESTIMATORS = {
    "gae": ({}, None, ("policy", "value")),
    "group": ({"advantage": "group", "group_size": 5}, ["a", "b", "a", "a", "b"], ("policy",)),
}


def train(rank, world_size, port, folder, out, estimator):
    algorithm, prompts, adapters = ESTIMATORS[estimator]
    config = settings(
        algorithm=algorithm,
        batch_size=TWO_RANK_SAMPLES,
        world_size=world_size,
        zero_stage=3,
        micro_batch_tokens=32,
    )
    learner = PPOLearner(config, folder, Rank(rank, world_size, master_port=port))
    first, second = (batch(seed, count=TWO_RANK_SAMPLES, prompts=prompts) for seed in (0, 1))
    learner.update(first)
    learner.save(out)
    result = learner.update(second)
    for name in adapters:
        (out / f"{name}-{rank}").write_bytes(learner.adapter_blob(name))
    learner.load(out)
    assert learner.update(second).samples == result.samples
    return result.metrics


@pytest.mark.parametrize("estimator", ["gae", pytest.param("group", marks=pytest.mark.slow)])
def test_two_zero_3_ranks_agree_with_one(folder, tmp_path, estimator):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both, alone = tmp_path / "both", tmp_path / "alone"
    with ProcessPoolExecutor(2, mp.get_context("spawn")) as ranks:
        jobs = [ranks.submit(train, rank, 2, port, folder, both, estimator) for rank in range(2)]
        got, other = [job.result(timeout=300) for job in jobs]
    want = train(0, 1, 0, folder, alone, estimator)
    timing = {"seconds", "tokens_per_s"}
    assert {k: v for k, v in got.items() if k not in timing} == {
        k: v for k, v in other.items() if k not in timing
    }
    adapters = ESTIMATORS[estimator][2]
    losses = [f"{name}_loss" for name in adapters]
    for name in (*losses, *(f"grad_norm_{name}" for name in adapters), "ess"):
        assert got[name] == pytest.approx(want[name], rel=2e-3), name
    assert got["tokens"] == want["tokens"]
    for name in adapters:
        one, first, second = (
            parse_adapter((out / f"{name}-{rank}").read_bytes()).modules
            for out, rank in ((alone, 0), (both, 0), (both, 1))
        )
        assert_close({name: first}, {name: second}, atol=0, rtol=0)
        assert_close({name: first}, {name: one}, atol=1e-3, rtol=1e-2)
