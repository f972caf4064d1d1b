"""DPO and SFT from a warm start, on a random model with the real tokenizer."""

import json
import math
import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from repo_ray.config.load import validate
from repo_ray.data.examples import Demonstration, Preference
from repo_ray.learner.dpo_training import train_dpo
from repo_ray.learner.fitting import TrainingError
from repo_ray.learner.sft_training import train_sft
from repo_ray.learner.stages import TRAIN
from repo_ray.models.adapters import merge_weight, parse_adapter
from repo_ray.models.chat import encode_prompt, encode_reply
from repo_ray.models.loading import load_tokenizer
from repo_ray.records import Message, Prompt

COLOURS = ["red", "green", "blue", "black", "white", "pink", "brown", "gold"]
BETA = 0.2


def prompt(rng, i):
    return Prompt(str(i), (Message("user", f"A {rng.choice(COLOURS)} room"),))


def preferences(count=48):
    """Thanks are preferred; lengths differ from pair to pair."""
    rng = random.Random(0)
    made = []
    for i in range(count):
        tail = " ".join(rng.choices(COLOURS, k=i % 3 + 1))
        made.append(
            Preference(
                prompt(rng, i),
                f"Thanks, {tail}",
                f"No {tail}",
                "heldout" if i % 4 == 0 else "train",
            )
        )
    return made


def demonstrations(count=24):
    rng = random.Random(1)
    return [
        Demonstration(prompt(rng, i), f"The {rng.choice(COLOURS)} one", "train")
        for i in range(count)
    ]


def config(folder, **sections):
    stage = {"lr": 1e-2, "batch_size": 8, "epochs": 3}
    return validate(
        {
            "model": {"path": str(folder), "dtype": "float32", "attention": "eager"},
            "lora": {"rank": 4, "alpha": 8},
            "warm_start": stage,
            "sft": stage,
            "dpo": stage | {"beta": BETA} | sections.pop("dpo", {}),
            "learner": {"threads": 1, **sections.pop("learner", {})},
        },
        "test",
    )


@pytest.fixture(scope="module")
def warm_start(tiny_model, tmp_path_factory):
    """A warm start that is well away from the base."""
    settings = config(tiny_model)
    out = tmp_path_factory.mktemp("warm-start")
    return train_sft(settings, settings.warm_start, tiny_model, demonstrations(), out).adapter


def reply_logprobs(folder, blob, rows):
    """Sums over the tokens of each row's chosen and rejected reply [N, 2], one reply at a time
    through plain transformers with merged weights."""
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapter = parse_adapter(blob)
    for path, (a, b) in adapter.modules.items():
        module = model.get_submodule(path)
        module.weight.data = merge_weight(module.weight.data, a, b, adapter.scale)

    def total(row, reply):
        start = encode_prompt(tokenizer, row.prompt.messages, thinking=False)
        end = encode_reply(tokenizer, reply)
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([start + end])).logits[0].log_softmax(-1)
        return sum(float(log_p[len(start) + t - 1, token]) for t, token in enumerate(end))

    return torch.tensor([[total(row, row.chosen), total(row, row.rejected)] for row in rows])


def test_the_policy_starts_as_its_reference_and_learns_the_preference(
    tiny_model, warm_start, tmp_path
):
    steps = []
    result = train_dpo(
        config(tiny_model),
        tiny_model,
        preferences(),
        tmp_path,
        lambda done, total, metrics: steps.append((done, total, dict(metrics))),
        warm_start,
    )
    assert [s[:2] for s in steps] == [(k, result.steps) for k in range(1, result.steps + 1)]
    first = steps[0][2]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert steps[-1][2]["loss"] < 0.5 * first["loss"]
    assert result.heldout["accuracy"] > 0.9
    assert result.heldout["margin"] > 1.0
    assert result.heldout["loss"] < 0.5 * math.log(2)

    # The same figures, without packing, from the two adapters alone.
    held = [row for row in preferences() if row.split == "heldout"]
    after, before = (
        reply_logprobs(tiny_model, path.read_bytes(), held) for path in (result.adapter, warm_start)
    )
    rewards = BETA * (after - before)
    margins = rewards[:, 0] - rewards[:, 1]
    assert result.heldout["margin"] == pytest.approx(float(margins.mean()), abs=1e-3)
    assert result.heldout["chosen_reward"] == pytest.approx(float(rewards[:, 0].mean()), abs=1e-3)
    assert result.heldout["accuracy"] == float((margins > 0).float().mean())


def test_without_a_warm_start_the_base_is_the_reference(tiny_model, tmp_path):
    losses = []
    train_dpo(
        config(tiny_model, dpo={"epochs": 1}),
        tiny_model,
        preferences(16),
        tmp_path,
        lambda done, total, metrics: losses.append(metrics["loss"]),
    )
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] != pytest.approx(math.log(2), abs=1e-3)


def test_micro_batches_do_not_change_dpo(tiny_model, warm_start, tmp_path):
    losses = []
    for budget in (16, 4096):
        run = []
        train_dpo(
            config(tiny_model, learner={"micro_batch_tokens": budget}),
            tiny_model,
            preferences(24),
            tmp_path,
            lambda done, total, metrics, run=run: run.append(metrics["loss"]),
            warm_start,
        )
        losses.append(run)
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_costs_are_counted(tiny_model, warm_start, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    settings = config(tiny_model)

    def size(row, *replies):
        encoded = [encode_reply(tokenizer, text) for text in replies]
        return len(encode_prompt(tokenizer, row.prompt.messages, thinking=False)) + sum(
            map(len, encoded)
        )

    pairs = preferences(16)
    sizes = {split: sum(size(r, r.chosen, r.rejected) for r in pairs if r.split == split)
             for split in ("train", "heldout")}  # fmt: skip
    done = train_dpo(settings, tiny_model, pairs, tmp_path, start=warm_start)
    assert (done.rows, done.rows_seen, done.steps) == (12, 36, 6)
    assert done.tokens == 3 * sizes["train"]
    assert done.reference_tokens == sizes["train"] + sizes["heldout"]

    rows = demonstrations(10)
    done = train_sft(settings, settings.sft, tiny_model, rows, tmp_path, start=warm_start)
    assert (done.rows, done.rows_seen, done.steps) == (10, 30, 6)
    assert done.tokens == 3 * sum(size(r, r.reply) for r in rows)
    assert done.heldout_loss is None


def test_sft_continues_from_its_start(tiny_model, warm_start, tmp_path):
    settings = config(tiny_model)
    losses = {}
    for name, start in {"base": None, "warm": warm_start}.items():
        run = losses[name] = []
        train_sft(
            settings,
            settings.sft,
            tiny_model,
            demonstrations(),
            tmp_path / name,
            lambda done, total, metrics, run=run: run.append(metrics["loss"]),
            start,
        )
    # The warm start was trained on the same rows, so it is where the other training ended.
    assert losses["warm"][0] < losses["base"][0] - 1
    assert losses["warm"][0] == pytest.approx(losses["base"][-1], abs=1)


def test_lower_layers_keep_the_warm_start(tiny_model, warm_start, tmp_path):
    settings = config(tiny_model, dpo={"top_layers": 1})
    result = train_dpo(settings, tiny_model, preferences(16), tmp_path, start=warm_start)
    old, new = (parse_adapter(path.read_bytes()).modules for path in (warm_start, result.adapter))
    moved = {path.split(".")[2] for path in old if not torch.equal(old[path][1], new[path][1])}
    assert moved == {"1"}


def test_faulty_input_is_named(tiny_model, warm_start, tmp_path):
    settings = config(tiny_model)
    with pytest.raises(TrainingError, match="no training pairs"):
        train_dpo(settings, tiny_model, preferences(1), tmp_path, start=warm_start)
    with pytest.raises(TrainingError, match=r"none\.safetensors: not an adapter to start from"):
        train_dpo(
            settings, tiny_model, preferences(8), tmp_path, start=tmp_path / "none.safetensors"
        )
    other = settings.model_copy(update={"lora": settings.lora.model_copy(update={"rank": 2})})
    with pytest.raises(TrainingError, match=r"adapter\.safetensors: .*rank 4"):
        train_sft(other, other.sft, tiny_model, demonstrations(), tmp_path, start=warm_start)


def rows_file(path, rows):
    lines = []
    for row in rows:
        line = {name: getattr(row, name) for name in row.__slots__ if name != "prompt"}
        messages = [{"role": m.role, "content": m.content} for m in row.prompt.messages]
        lines.append(json.dumps(line | {"prompt_id": row.prompt.prompt_id, "messages": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_stages_by_name(tiny_model, warm_start, tmp_path):
    settings = config(tiny_model)
    files = {
        "sft": rows_file(tmp_path / "sft.jsonl", demonstrations()),
        "dpo": rows_file(tmp_path / "preferences.jsonl", preferences()),
    }
    for stage, rows in files.items():
        out = tmp_path / stage
        result = TRAIN[stage](settings, tiny_model, rows, out, lambda *_: None, warm_start)
        assert (out / "adapter.safetensors").is_file()
        plain = json.loads(json.dumps(result))
        assert plain.keys() >= {"text", "rows", "rows_seen", "steps", "seconds", "tokens"}
    assert "held-out accuracy" in plain["text"]
    for stage in ("warm_start", "reward_model", "judge"):
        with pytest.raises(TrainingError, match=f"{stage} starts from the base"):
            TRAIN[stage](settings, tiny_model, files["sft"], tmp_path, lambda *_: None, warm_start)
