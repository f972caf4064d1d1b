"""The supervised stages learn what they should, whatever the micro-batches."""

import math
import random
from dataclasses import dataclass, field, replace

import pytest
import torch

from repo_ray.config.load import validate
from repo_ray.config.settings import LoraShape
from repo_ray.data.selection import choose
from repo_ray.learner import reward_training
from repo_ray.learner.fitting import TrainingError
from repo_ray.learner.judge_training import _addressed, train_judge
from repo_ray.learner.reward_training import by_chosen, train_reward_model
from repo_ray.learner.sft_training import train_sft
from repo_ray.models.adapters import add_adapters, import_adapter, parse_adapter
from repo_ray.models.loading import load_base
from repo_ray.records import Message, Prompt
from repo_ray.rewards.judge.injections import made_up
from repo_ray.rewards.judge.local import LocalJudge
from repo_ray.rewards.judge.rubric import Criterion, Rubric
from repo_ray.rewards.reward_model import RewardModelScorer

COLOURS = ["red", "green", "blue", "black", "white", "pink", "brown", "gold"]
RUBRIC = Rubric(
    (
        Criterion("thanks", "The reply says thanks.", 10.0),
        Criterion("price", "The reply asks for a price.", -10.0),
    )
)


@dataclass(frozen=True)
class Row:
    """A row of every kind at once."""

    prompt: Prompt
    split: str
    chosen: str = ""
    rejected: str = ""
    defect: str = ""
    reply: str = ""
    labels: dict[str, bool] = field(default_factory=dict)


def rows(count=64):
    rng = random.Random(0)  # so that colours, labels and split tell nothing of one another
    made = []
    for i in range(count):
        a, b = rng.choices(COLOURS, k=2)
        thanks, price = rng.random() < 0.5, rng.random() < 0.5
        reply = " ".join(
            [f"A {a} one.", "Thanks." if thanks else "Well.", "Price?" if price else "So."]
        )
        made.append(
            Row(
                Prompt(str(i), (Message("user", f"A {b} room"),)),
                "heldout" if i % 3 == 0 else "train",
                chosen=f"Thanks for the {a} room",
                rejected=f"No {a} room",
                defect="rude" if i % 2 else "short",
                reply=reply,
                labels={"thanks": thanks, "price": price},
            )
        )
    return made


def config(tiny_model, **learner):
    stage = {"lr": 1e-2, "batch_size": 8, "epochs": 4}
    return validate(
        {
            "model": {"path": str(tiny_model), "dtype": "float32", "attention": "eager"},
            "lora": {"rank": 4, "alpha": 8},
            "learner": {"threads": 1, "zero_stage": 2, **learner},
            "warm_start": stage,
            "train_reward_model": stage,
            "train_judge": stage,
        },
        "test",
    )


def test_sft_lowers_heldout_loss_and_writes_the_policy_adapter(tiny_model, tmp_path):
    steps = []
    settings = config(tiny_model)
    result = train_sft(
        settings,
        settings.warm_start,
        tiny_model,
        rows(),
        tmp_path,
        lambda *step: steps.append(step),
    )
    assert [s[0] for s in steps] == list(range(1, result.steps + 1))
    assert {s[1] for s in steps} == {result.steps}
    assert result.heldout_loss < 0.8 * steps[0][2]["loss"]
    blob = result.adapter.read_bytes()
    model = add_adapters(
        load_base(tiny_model, torch.float32, "eager"), ["policy"], LoraShape(rank=4, alpha=8)
    )
    import_adapter(model, "policy", blob)
    assert any(b.abs().max() > 0 for _, b in parse_adapter(blob).modules.values())


def test_learning_rate_rises_then_falls_linearly(tiny_model, tmp_path):
    rates = []
    settings = config(tiny_model)
    train_sft(
        settings,
        settings.warm_start,
        tiny_model,
        rows(),
        tmp_path,
        lambda s, t, m: rates.append(m["lr"]),
    )
    total, warm = len(rates), 2  # a tenth of 24 steps
    expected = [1e-2 * min(1, (k + 1) / warm) * (1 - k / total) for k in range(total)]
    assert total == 24
    assert rates == pytest.approx(expected)


def test_micro_batches_do_not_change_the_training(tiny_model, tmp_path):
    losses = []
    for budget in (16, 4096):
        settings = config(tiny_model, micro_batch_tokens=budget)
        run = []
        train_sft(
            settings,
            settings.warm_start,
            tiny_model,
            rows(24),
            tmp_path,
            lambda s, t, m, run=run: run.append(m["loss"]),
        )
        losses.append(run)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_top_layers_train_alone_and_the_adapter_keeps_its_whole_shape(tiny_model, tmp_path):
    settings = config(tiny_model)
    settings = settings.model_copy(
        update={"warm_start": settings.warm_start.model_copy(update={"top_layers": 1})}
    )
    result = train_sft(settings, settings.warm_start, tiny_model, rows(24), tmp_path)
    modules = parse_adapter(result.adapter.read_bytes()).modules
    moved = {path.split(".")[2] for path, (_, b) in modules.items() if b.abs().max() > 0}
    assert {path.split(".")[2] for path in modules} == {"0", "1"}
    assert moved == {"1"}


def test_reward_model_learns_a_preference_and_is_centred_on_its_reference(tiny_model, tmp_path):
    settings = config(tiny_model)
    result = train_reward_model(settings, tiny_model, rows(), tmp_path)
    heldout = result.card.heldout
    assert heldout.accuracy > 0.9
    assert set(heldout.accuracy_by_defect) == {"rude", "short"}
    assert sum(heldout.pairs_by_defect.values()) == heldout.pairs
    scorer = RewardModelScorer(tmp_path, settings, 1)
    held = [row for row in rows() if row.split == "heldout"]
    prompts = [r.prompt for r in held]
    batch = [(p, t) for p, r in zip(prompts, held, strict=True) for t in (r.chosen, r.rejected)]
    values = torch.tensor([s.value for s in scorer.score(batch)])
    assert values.mean().item() == pytest.approx(0, abs=1e-3)
    assert values.std().item() == pytest.approx(1, abs=1e-3)
    assert (values[::2] > values[1::2]).float().mean() == pytest.approx(heldout.accuracy)


def test_pairs_that_share_prompt_and_chosen_reply_train_as_if_they_were_apart(
    tiny_model, tmp_path, monkeypatch
):
    settings = config(tiny_model)
    stage = settings.train_reward_model.model_copy(update={"batch_size": 100, "epochs": 2})
    settings = settings.model_copy(update={"train_reward_model": stage})
    more = [replace(r, rejected=f"{r.prompt.messages[0].content}?", defect="own") for r in rows()]
    both = [row for pair in zip(rows(), more, strict=True) for row in pair]
    assert [len(group) for group in by_chosen(both)] == [2] * 64

    def train(folder):
        history = []
        result = train_reward_model(
            settings, tiny_model, both, folder, lambda s, t, m: history.append((s, m))
        )
        return history, result.card

    shared, card = train(tmp_path / "shared")
    monkeypatch.setattr(reward_training, "by_chosen", lambda rows: [[row] for row in rows])
    apart, other = train(tmp_path / "apart")
    assert [s for s, _ in shared] == [s for s, _ in apart] == [1, 2]
    for (_, a), (_, b) in zip(shared, apart, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    assert card.heldout.accuracy_by_defect == other.heldout.accuracy_by_defect
    assert card.heldout.pairs == other.heldout.pairs == 44
    assert (card.reference_replies, other.reference_replies) == (66, 88)


def test_judge_learns_its_criteria(tiny_model, tmp_path):
    settings = config(tiny_model)
    longer = settings.train_judge.model_copy(update={"epochs": 12})
    settings = settings.model_copy(update={"train_judge": longer})
    result = train_judge(settings, tiny_model, rows(), RUBRIC, tmp_path)
    figures = result.card.criteria
    assert {c: f.positives + f.negatives for c, f in figures.items()} == {"thanks": 22, "price": 22}
    assert {c: f.auc > 0.9 for c, f in figures.items()} == {"thanks": True, "price": True}
    judge = LocalJudge(tmp_path, RUBRIC, settings, 1)
    prompt = Prompt("p", (Message("user", "A red room"),))
    good, bad = judge.score(
        [(prompt, "A red one. Thanks. So."), (prompt, "A red one. Well. Price?")]
    )
    assert good.value > bad.value + 5


def test_rows_without_labels_for_a_criterion_are_refused(tiny_model, tmp_path):
    more = Rubric((*RUBRIC.criteria, Criterion("humour", "Funny?", 1.0)))
    with pytest.raises(TrainingError, match="humour"):
        train_judge(config(tiny_model), tiny_model, rows(), more, tmp_path)


def test_no_rows_is_a_clear_error(tiny_model, tmp_path):
    with pytest.raises(TrainingError, match="no training rows"):
        train_reward_model(config(tiny_model), tiny_model, [], tmp_path)


def test_the_third_non_finite_gradient_in_a_row_ends_the_training(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        reward_training.rm, "bradley_terry_loss", lambda chosen, rejected: chosen * math.nan
    )
    steps = []
    with pytest.raises(TrainingError, match="3 updates in a row were skipped: non-finite gradient"):
        train_reward_model(
            config(tiny_model), tiny_model, rows(), tmp_path, lambda k, *_: steps.append(k)
        )
    assert steps == [1, 2]
    assert not any(tmp_path.iterdir())


def test_a_reward_model_without_zero_and_scale_is_not_written(tiny_model, tmp_path):
    same = [replace(r, prompt=rows()[0].prompt, chosen="Yes", rejected="Yes") for r in rows(9)]
    with pytest.raises(TrainingError, match="std must be above 1e-06: it has learned nothing"):
        train_reward_model(config(tiny_model), tiny_model, same, tmp_path)
    assert not any(tmp_path.iterdir())


def test_choose_draws_without_replacement_in_order_and_by_seed():
    chosen = choose(range(100), 10, 1, group=lambda x: x)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 10
    assert chosen == choose(range(100), 10, 1, group=lambda x: x)
    assert chosen != choose(range(100), 10, 2, group=lambda x: x)
    assert choose(range(3), 10, 1, group=lambda x: x) == [0, 1, 2]
    assert choose(range(3), None, 1, group=lambda x: x) == [0, 1, 2]


def test_choose_keeps_groups_together():
    chosen = choose(range(90), 30, 1, group=lambda x: x // 3)
    assert len(chosen) == 30
    assert all(x // 3 * 3 + k in chosen for x in chosen for k in range(3))


def test_the_sentences_of_an_attempt_and_no_others_are_marked() -> None:
    """At the end of a reply, where an attempt shares no sentence with it."""
    honest = ["No rush, I see. ", "We accept 316 for T1. ", "Thank you."]
    rng, at_the_end = random.Random(0), 0
    for _ in range(300):
        reply, attempt = made_up("".join(honest), ["polite"], rng)
        if attempt.stop == len(reply):
            marks = _addressed(reply, attempt)
            assert marks[:3] == [0.0, 0.0, 0.0]
            assert len(marks) > 3
            assert set(marks[3:]) == {1.0}
            at_the_end += 1
    assert at_the_end > 100
    assert _addressed("".join(honest), range(0)) == [0.0, 0.0, 0.0]
