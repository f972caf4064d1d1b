"""Losses, advantages and gradients against TRL's trainers, where TRL is installed.

`pip install trl` brings what is needed. Written for TRL 1.x, whose trainers are asked through
`compute_loss` and `_prepare_inputs`, the methods that `transformers.Trainer` has them override.
"""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from repo_ray.algorithms.dpo import dpo_loss
from repo_ray.algorithms.grpo import group_advantages
from repo_ray.algorithms.ppo import policy_loss
from repo_ray.models.loading import load_tokenizer

trl = pytest.importorskip("trl", minversion="1.0", exc_type=ImportError)
datasets = pytest.importorskip("datasets", exc_type=ImportError)

BETA, TEMPERATURE = 0.3, 0.8


def moved(folder, seed):
    """The random model of `folder` with other weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def token_logprobs(model, ids, attention, temperature):
    """Log-probability of every token but the first, [B, T - 1]."""
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1] / temperature
    return logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert max(float(g.abs().max()) for g in theirs.values()) > 1e-3
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-3)


def settings(kind, folder, **options):
    return kind(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        bf16=False,
        per_device_eval_batch_size=8,
        **options,
    )


def test_dpo_loss_is_trls(tiny_model, tmp_path):
    words = ["red", "green", "small", "large", "cheap"]
    rng = random.Random(0)

    def text(count):
        return " " + " ".join(rng.choices(words, k=count))

    rows = [
        {"prompt": "A room:" + text(i % 3 + 1), "chosen": text(i % 4 + 1), "rejected": text(3)}
        for i in range(8)
    ]
    policy, reference = moved(tiny_model, 1), moved(tiny_model, 2)
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=settings(trl.DPOConfig, tmp_path, beta=BETA, loss_type=["sigmoid"]),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(rows),
        processing_class=load_tokenizer(tiny_model),
    )
    trainer.model.eval()
    inputs = next(iter(trainer.get_eval_dataloader()))
    theirs = trainer.compute_loss(trainer.model, inputs)

    ids, counted = inputs["input_ids"], inputs["completion_mask"][:, 1:]
    assert ids.shape[0] == 2 * len(rows)  # the chosen replies, then the rejected ones
    sums = [
        (token_logprobs(model, ids, inputs["attention_mask"], 1.0) * counted).sum(1)
        for model in (policy, reference)
    ]
    result = dpo_loss(*sums[0].chunk(2), *sums[1].detach().chunk(2), beta=BETA)
    assert result.loss.mean().item() == pytest.approx(theirs.item(), rel=1e-4)
    assert_same_gradients(gradients(policy, result.loss.mean()), gradients(policy, theirs))

    measured = trainer.evaluate()
    for name, values in {
        "eval_loss": result.loss,
        "eval_rewards/chosen": result.chosen_rewards,
        "eval_rewards/rejected": result.rejected_rewards,
        "eval_rewards/margins": result.margins,
        "eval_rewards/accuracies": result.right,
    }.items():
        assert measured[name] == pytest.approx(values.mean().item(), rel=1e-3, abs=1e-4), name
    assert 0 < measured["eval_rewards/accuracies"] < 1


def test_grpo_advantages_and_loss_are_trls(tiny_model, tmp_path):
    rewards = []

    def reward(completions, **_):
        rng = random.Random(0)
        made = [rng.gauss(0, 2) for _ in completions]
        rewards.extend(made)
        return made

    rows = [{"prompt": "A red room"}, {"prompt": "A green room"}]
    policy = moved(tiny_model, 1)
    trainer = trl.GRPOTrainer(
        model=policy,
        reward_funcs=reward,
        args=settings(
            trl.GRPOConfig,
            tmp_path,
            beta=0.0,
            epsilon=0.2,
            loss_type="dapo",
            num_generations=4,
            max_completion_length=6,
            temperature=TEMPERATURE,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(rows),
        processing_class=load_tokenizer(tiny_model),
    )
    trainer.model.eval()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader())))

    prompts = [tuple(row) for row in inputs["prompt_ids"].tolist()]
    assert [prompts.count(p) for p in prompts] == [4] * 8
    ours = group_advantages(torch.tensor(rewards), prompts)
    torch.testing.assert_close(ours.advantages, inputs["advantages"], atol=1e-3, rtol=1e-3)

    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    mask = inputs["completion_mask"].bool()
    new = token_logprobs(policy, ids, attention, TEMPERATURE)[:, -mask.shape[1] :]
    torch.manual_seed(3)
    old = new.detach() + 0.3 * torch.randn_like(new)  # so that some ratios are clipped
    inputs["old_per_token_logps"] = old
    theirs = trainer.compute_loss(trainer.model, inputs)

    per_token = inputs["advantages"][:, None].expand_as(new)[mask]
    result = policy_loss(new[mask], old[mask], old[mask], per_token, 0.2, "behaviour")
    assert 0 < result.clipped.float().mean() < 1
    assert result.loss.mean().item() == pytest.approx(theirs.item(), rel=1e-4)
    assert_same_gradients(gradients(policy, result.loss.mean()), gradients(policy, theirs))
