"""Bradley-Terry loss, checkpoint round trip, and scores that fail alone."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from repo_ray.config.load import validate
from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import add_adapters, export_adapter, import_adapter
from repo_ray.models.chat import encode_prompt, encode_reply
from repo_ray.models.loading import fingerprint, load_base, load_tokenizer
from repo_ray.models.packing import pack
from repo_ray.records import Message, Prompt
from repo_ray.rewards.reward_model import (
    FORMAT,
    RewardModel,
    RewardModelCard,
    RewardModelScorer,
    bradley_terry_loss,
    pair_tree,
    save_reward_model,
)
from repo_ray.rewards.tuned import Base, CheckpointError

PROMPT = Prompt("p", (Message("system", "Ask for 400 yuan."), Message("user", "Well?")))
REPLIES = ["Could you do 400 yuan?", "No.", "We want a lower price please"]


def test_bradley_terry_by_hand():
    # sigmoid(ln 3) = 3/4; equal rewards give ln 2.
    loss = bradley_terry_loss(torch.tensor([math.log(3.0), 2.0]), torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(2.0)]))


def test_bradley_terry_gradient_by_finite_differences():
    chosen = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.1, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bradley_terry_loss, (chosen, rejected))


def test_bradley_terry_does_not_overflow():
    loss = bradley_terry_loss(torch.tensor([-1e4]), torch.tensor([1e4]))
    assert loss.item() == pytest.approx(2e4)


@pytest.fixture(scope="module")
def config(tiny_model):
    return validate({"model": {"path": str(tiny_model), "dtype": "float32"}}, "test")


@pytest.fixture(scope="module")
def network(tiny_model):
    torch.manual_seed(1)
    base = load_base(tiny_model, torch.float32, "sdpa", packed=True)
    network = RewardModel(add_adapters(base, ["reward"], LoraShape(rank=4, alpha=8)))
    with torch.no_grad():
        for parameter in network.trainable():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return network


@pytest.fixture
def checkpoint(tmp_path, tiny_model, network):
    card = RewardModelCard(
        format=FORMAT,
        base=Base(
            path=str(tiny_model),
            fingerprint=fingerprint(tiny_model),
            dtype="float32",
            rank=4,
            alpha=8,
        ),
        thinking=False,
        train_pairs=1,
        steps=1,
        seconds=1.0,
        reference="heldout",
        reference_replies=2,
        heldout=None,
    )
    save_reward_model(tmp_path, network, 0.5, 2.0, card)
    return tmp_path


def unpacked_raw(tiny_model, network, tokenizer, reply):
    """The raw reward from a plain forward pass of prompt and reply."""
    ids = encode_prompt(tokenizer, PROMPT.messages, thinking=False) + encode_reply(tokenizer, reply)
    whole = load_base(tiny_model, torch.float32, "sdpa")
    decoder = add_adapters(whole, ["reward"], LoraShape(rank=4, alpha=8))
    import_adapter(decoder, "reward", export_adapter(network.model, "reward"))
    with torch.no_grad():
        hidden = decoder.get_base_model().model(input_ids=torch.tensor([ids])).last_hidden_state
        return float(hidden[0, -1] @ network.head)


def test_scorer_gives_the_networks_reward_centred_and_scaled(
    checkpoint, config, tiny_model, network
):
    tokenizer = load_tokenizer(checkpoint_base(checkpoint))
    scores = RewardModelScorer(checkpoint, config, 1).score([(PROMPT, r) for r in REPLIES])
    for score, reply in zip(scores, REPLIES, strict=True):
        raw = unpacked_raw(tiny_model, network, tokenizer, reply)
        assert score.source == "reward_model"
        assert score.detail["raw"].points == pytest.approx(raw, abs=1e-4)
        assert score.value == pytest.approx((raw - 0.5) / 2, abs=1e-4)


def checkpoint_base(folder):
    return json.loads((folder / "reward_model.json").read_text())["base"]["path"]


def test_packed_pair_has_the_rewards_of_separate_replies(tiny_model, network):
    tokenizer = load_tokenizer(tiny_model)
    tree = pair_tree(tokenizer, PROMPT.messages, REPLIES, thinking=False)
    packed = network(pack([tree], torch.device("cpu")))
    alone = [unpacked_raw(tiny_model, network, tokenizer, reply) for reply in REPLIES]
    assert packed.tolist() == pytest.approx(alone, abs=1e-4)


def test_a_score_does_not_depend_on_its_company(checkpoint, config):
    scorer = RewardModelScorer(checkpoint, config, 1)
    together = scorer.score([(PROMPT, r) for r in REPLIES])
    for score, reply in zip(together, REPLIES, strict=True):
        assert scorer.score([(PROMPT, reply)])[0].value == pytest.approx(score.value, abs=1e-4)


def test_too_long_sample_is_invalid_and_the_others_are_scored(checkpoint, config):
    scores = RewardModelScorer(checkpoint, config, 1).score(
        [(PROMPT, REPLIES[0]), (PROMPT, "word " * 600), (PROMPT, REPLIES[1])]
    )
    assert [s.valid for s in scores] == [True, False, True]
    assert scores[1].error.startswith("too_long: ")


def test_non_finite_reward_is_invalid_for_that_sample_only(checkpoint, config):
    scorer = RewardModelScorer(checkpoint, config, 1)
    poisoned = scorer._tokenizer.encode(" zebra")[0]
    with torch.no_grad():
        scorer._model.get_input_embeddings().weight[poisoned] = torch.nan
    scores = scorer.score([(PROMPT, "A zebra"), (PROMPT, REPLIES[1])])
    assert [s.valid for s in scores] == [False, True]
    assert scores[0].error.startswith("non_finite: ")


@pytest.mark.parametrize("missing", ["constants.mean", "constants.std", "head"])
def test_missing_constants_are_a_clear_error(checkpoint, config, missing):
    file = checkpoint / "reward_model.safetensors"
    tensors = load_file(file)
    del tensors[missing]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=f"no {missing}"):
        RewardModelScorer(checkpoint, config, 1)


UNUSABLE = [(0.0, 0.0), (0.5, 1e-9), (float("nan"), 1.0), (0.0, float("inf"))]


@pytest.mark.parametrize(("mean", "std"), UNUSABLE)
def test_unusable_constants_are_a_clear_error(checkpoint, config, mean, std):
    file = checkpoint / "reward_model.safetensors"
    constants = {"constants.mean": torch.tensor([mean]), "constants.std": torch.tensor([std])}
    save_file({**load_file(file), **constants}, file)
    with pytest.raises(CheckpointError, match=r"mean .* std .* are unusable"):
        RewardModelScorer(checkpoint, config, 1)


def edit(folder, change):
    file = folder / "reward_model.json"
    card = json.loads(file.read_text())
    change(card)
    file.write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(format="repo_ray.reward_model/9"), "format is"),
        (lambda card: card.pop("reference"), "reference"),
        (lambda card: card["base"].update(fingerprint="0"), "another base model"),
    ],
)
def test_unusable_card_is_a_clear_error(checkpoint, config, change, message):
    edit(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        RewardModelScorer(checkpoint, config, 1)


def test_missing_checkpoint_is_named(tmp_path, config):
    with pytest.raises(CheckpointError, match=r"reward_model\.json: cannot be read"):
        RewardModelScorer(tmp_path, config, 1)


@pytest.mark.parametrize(("mean", "std"), UNUSABLE)
def test_unusable_constants_are_not_saved(tmp_path, network, mean, std):
    with pytest.raises(ValueError, match="constants"):
        save_reward_model(tmp_path, network, mean, std, None)
