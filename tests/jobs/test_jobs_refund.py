"""A second task, in German, by files alone: its data, rules and rubric, and a run of its config."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

from repo_ray.cli.chat import _desks
from repo_ray.config import Config, ConfigError, load_config
from repo_ray.data import (
    Kind,
    read_preferences,
    read_prompts,
    read_sft,
    read_verdicts,
    validate,
)
from repo_ray.models.chat import encode_prompt, encode_reply
from repo_ray.models.loading import load_tokenizer
from repo_ray.pipeline.preflight import check_inputs
from repo_ray.records import Message, Prompt
from repo_ray.rewards.judge.rubric import load_rubric
from repo_ray.rewards.rules.rule_set import load_rules

ROOT = Path(__file__).parents[2]
DESK = ROOT / "jobs" / "configs" / "refund"
CONFIG = DESK / "refund.yaml"
KINDS: dict[str, Kind] = {
    "prompts.jsonl": "prompts",
    "preferences.jsonl": "preferences",
    "sft.jsonl": "sft",
    "verdicts.jsonl": "verdicts",
}


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refund_build", DESK / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- data ------------------------------------------------------------------------------


def test_the_committed_files_are_what_the_builder_writes(builder: ModuleType) -> None:
    assert builder.build() == {name: (DESK / name).read_text(encoding="utf-8") for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_the_files_are_valid_and_have_both_splits(name: str) -> None:
    assert validate(DESK / name, KINDS[name]) == []
    rows = [json.loads(line) for line in (DESK / name).read_text(encoding="utf-8").splitlines()]
    assert Counter(row["split"] for row in rows).keys() == {"train", "heldout"}
    assert len({row["family"] for row in rows}) == 6


def test_held_out_rows_have_goods_and_first_questions_of_their_own() -> None:
    rows = [
        json.loads(line)
        for name in KINDS
        for line in (DESK / name).read_text(encoding="utf-8").splitlines()
    ]

    def seen(split: str) -> tuple[set[str], set[str]]:
        own = [row for row in rows if row["split"] == split]
        goods = {row["context"]["goods"] for row in own}
        names = "|".join(map(re.escape, goods))
        asked = (row["messages"][1]["content"] for row in own)
        return goods, {re.sub(rf"\b(?:{names})\b|\d+", "_", text) for text in asked}

    for train, heldout in zip(seen("train"), seen("heldout"), strict=True):
        assert heldout
        assert not train & heldout


def test_most_pairs_differ_in_a_number_alone() -> None:
    """Only the facts in the context say which of the two is right."""
    pairs = read_preferences(DESK / "preferences.jsonl")
    masked = [[re.sub(r"\d+", "#", reply) for reply in (p.chosen, p.rejected)] for p in pairs]
    assert len(pairs) >= 80
    assert sum(chosen == rejected for chosen, rejected in masked) / len(pairs) >= 0.4


def test_every_criterion_has_both_labels_in_both_splits() -> None:
    rubric = load_rubric(DESK / "rubric.yaml")
    for split in ("train", "heldout"):
        rows = read_verdicts(DESK / "verdicts.jsonl", split=split)
        for criterion in rubric.ids:
            assert {row.labels[criterion] for row in rows} == {True, False}, (split, criterion)


def test_prompts_and_replies_fit_the_configs_limits(tiny_model: Path) -> None:
    config, tokenizer = load_config(CONFIG), load_tokenizer(tiny_model)
    for prompt in read_prompts(DESK / "prompts.jsonl"):
        length = len(encode_prompt(tokenizer, prompt.messages, thinking=False))
        assert length <= config.model.max_prompt_tokens, prompt.prompt_id
    replies = [row.reply for row in read_sft(DESK / "sft.jsonl")]
    lengths = [len(encode_reply(tokenizer, reply)) for reply in replies]
    assert sum(n <= config.sampling.max_new_tokens for n in lengths) / len(lengths) >= 0.95


# --- rules -----------------------------------------------------------------------------

FACTS = {"paid": 129.8, "refund": 49.9, "deadline": "2025-03-17", "days": 5}
GOOD = "Wir erstatten Ihnen 49,90 Euro. Bitte senden Sie ihn bis zum 17.03.2025 zurück."


def hits(reply: str, **facts: Any) -> set[str]:
    prompt = Prompt("p", (Message("user", "Wie viel bekomme ich zurück?"),), FACTS | facts)
    score = load_rules(DESK / "rules.yaml").score(prompt, reply)
    assert score.valid, score.error
    return set(score.detail)


REWARDED = {"names_refund", "names_deadline"}


@pytest.mark.parametrize(
    ("rule", "caught", "passed"),
    [
        (
            "amount_not_in_order",
            "Wir erstatten Ihnen 59,90 Euro.",
            "Von den 129,80 Euro erstatten wir Ihnen 49,90 €.",
        ),
        ("amount_not_in_order", "Das sind EUR 1.049,90 für Sie.", "Das sind EUR 49,90 für Sie."),
        ("amount_not_in_order", "Dazu kommen 20 Euro für Sie.", "Bestellung 48213 vom 17.03.2025."),
        (
            "refund_mismatch",
            "Sie erhalten 129,80 Euro zurück.",
            "Bezahlt haben Sie 129,80 Euro, davon erstatten wir 49,90 Euro.",
        ),
        (
            "deadline_mismatch",
            "Senden Sie ihn bis zum 18.03.2025 zurück.",
            "Senden Sie ihn bis zum 17. März 2025 zurück.",
        ),
        (
            "deadline_mismatch",
            "Das Geld kommt nach zehn Werktagen.",
            "Das Geld kommt nach fünf Werktagen, also 5 Werktage nach Eingang.",
        ),
        ("deadline_mismatch", "Sie haben 5 Wochen Zeit.", "Sie haben bis zum 17.3. Zeit."),
        (
            "promise_beyond_policy",
            "Aus Kulanz legen wir etwas dazu.",
            "Einen Gutschein können wir Ihnen nicht anbieten.",
        ),
        ("informal_address", "Schick uns einfach dein Paket.", "Schicken Sie uns Ihr Paket."),
        (
            "english",
            "Please send the parcel zurück, danke für alles.",
            "Der Chat ist gut, wir prüfen das Ticket gern für Sie.",
        ),
        ("format_breakage", "**Wichtig:** Wir erstatten 49,90 Euro.", GOOD),
        ("over_long", " ".join(["Wir", "prüfen", "das"] * 25), GOOD),
        ("too_short", "Ja, gern.", GOOD),
    ],
)
def test_each_rule_catches_its_fault_and_lets_a_near_miss_pass(
    rule: str, caught: str, passed: str
) -> None:
    assert rule in hits(caught)
    assert rule not in hits(passed)


def test_a_right_reply_earns_points_and_breaks_no_rule() -> None:
    assert hits(GOOD) == REWARDED


def test_where_nothing_is_due_a_refusal_is_right_and_a_refund_wrong() -> None:
    refusal = "Die Frist endete am 17.03.2025, deshalb können wir leider nichts erstatten."
    assert hits(refusal, refund=0, days=None) == REWARDED
    assert "refund_not_due" in hits("Wir erstatten Ihnen den Kaufpreis.", refund=0, days=None)
    assert "refund_not_due" not in hits("Wir erstatten Ihnen 49,90 Euro.")


def test_rules_without_their_facts_stay_quiet() -> None:
    nothing: dict[str, Any] = dict.fromkeys(FACTS)
    assert hits("Wir erstatten Ihnen 59,90 Euro bis zum 18.03.2025.", **nothing) == set()


def test_demonstrations_have_no_fault_and_the_rejected_replies_theirs() -> None:
    rules = load_rules(DESK / "rules.yaml")
    for row in read_sft(DESK / "sft.jsonl"):
        score = rules.score(row.prompt, row.reply)
        assert "names_refund" in score.detail, row.reply
        assert all(d.points > 0 for d in score.detail.values()), (row.reply, score.detail)
    expected = {
        "amount": {"refund_mismatch"},
        "date": {"deadline_mismatch"},
        "days": {"deadline_mismatch"},
        "promise": {"promise_beyond_policy"},
        "informal": {"informal_address"},
        "english": {"english"},
    }
    for pair in read_preferences(DESK / "preferences.jsonl"):
        better, worse = (rules.score(pair.prompt, r) for r in (pair.chosen, pair.rejected))
        assert better.value is not None
        assert worse.value is not None
        if pair.defect in expected:
            assert better.value > worse.value, (pair.chosen, pair.rejected)
            assert expected[pair.defect] <= set(worse.detail), (pair.rejected, worse.detail)
        else:  # for the judge, not for rules
            assert better.value >= worse.value, (pair.chosen, pair.rejected)


# --- config ----------------------------------------------------------------------------


def test_the_config_passes_preflight_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, path in ((ROOT, CONFIG.relative_to(ROOT)), (tmp_path, CONFIG), (DESK, CONFIG.name)):
        monkeypatch.chdir(folder)
        config = load_config(Path(path))
        check_inputs(config)
        assert config.data.prompts is not None
        assert config.data.prompts.resolve() == DESK / "prompts.jsonl"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rules.path=null", "rules.path is missing: give your rules"),
        ("judge.rubric=null", "judge.rubric is missing: give your rubric"),
        ("dialogue={max_turns: 4}", "dialogue is set"),
        ("evaluation.negotiations=5", "evaluation.negotiations is set"),
    ],
)
def test_parts_of_the_built_in_task_are_refused(override: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"another task than hotel price(.|\n)*{expected}"):
        check_inputs(load_config(CONFIG, [override]))


def test_the_built_in_rules_are_accepted_where_the_facts_are_those_of_a_negotiation(
    tmp_path: Path,
) -> None:
    row = {
        "prompt_id": "p",
        "messages": [{"role": "user", "content": "What do you want?"}],
        "context": {"items": [{"ticket": "T1", "net_price": 410}]},
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    off = ["reward_model.enabled=false", "judge.enabled=false", "warm_start=null"]
    check_inputs(load_config(None, [f"data.prompts={tmp_path / 'p.jsonl'}", *off]))


def test_chat_plays_the_datas_own_customer() -> None:
    who, open_desk = _desks(DESK / "prompts.jsonl")
    assert who == "other side"
    desk = open_desk(0)
    assert "Sie beantworten im Chat Fragen" in desk.facts()
    desk.hear("Wann kommt mein Geld?")
    asked = desk.prompt()
    assert [m.role for m in asked.messages] == ["system", "user"]
    assert asked.context["order"] in asked.messages[0].content
    desk.answer("Bald.")
    assert len(desk.prompt().messages) == 3
    desk.take_back()
    assert desk.prompt() == asked
    with pytest.raises(ValueError, match="escalate"):
        desk.set_stage("escalate")
    assert open_desk(1).facts() != open_desk(0).facts()
    assert _desks(None)[0] == "hotel"


# --- a run -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the config with a tiny model: one step of everything."""
    runs = tmp_path_factory.mktemp("runs")
    whole = ("model", "lora", "sampling", "rollout", "reward_model", "learner", "warm_start")
    whole += ("train_reward_model", "train_judge", "monitor")
    small = [f"{section}={json.dumps(tiny_tree[section])}" for section in whole]
    small += [f"judge.{key}={json.dumps(value)}" for key, value in tiny_tree["judge"].items()]
    small += [f"rules.pool={json.dumps(tiny_tree['rules']['pool'])}", f"run.dir={runs}"]
    small += ["run.steps=1", "run.batch_size=4", "evaluation.online_dialogues=4"]
    small += ["monitor.every=1", "monitor.max_share=8"]
    done = subprocess.run(
        [sys.executable, "jobs/train_repo.py", "--config", str(CONFIG.relative_to(ROOT)), *small],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return runs / "refund"


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_run_trains_on_german_with_all_three_sources(run: Path) -> None:
    rows = pq.read_table(run / "trajectories" / "step-000000.parquet").to_pylist()
    assert len(rows) == 4
    for row in rows:
        assert row["messages"][0]["content"].startswith("Sie beantworten im Chat Fragen")
        assert set(json.loads(row["scores"])) == {"reward_model", "judge", "rules"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["samples"]["consumed"] == 4
    assert summary["stages"]["judge"]["criteria"].keys() == set(
        load_rubric(DESK / "rubric.yaml").ids
    )


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_its_report_claims_nothing_in_the_gold_evaluators_name(run: Path) -> None:
    measures = json.loads((run / "summary.json").read_text())["measures"]
    assert set(measures) == {"base", "warm_start", "repo"}
    for found in measures.values():
        assert {"reward", "fluency", "rule_violation_rate"} <= set(found)
        assert "gold_score" not in found
        assert found["reward"]["n"] == 4  # every held-out reply was scored by all sources
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "No evaluator apart from the reward" in page
    assert "Not judged" in page
    assert "does not know the task" in (run / "run.log").read_text(encoding="utf-8")


def test_the_config_is_small_enough_for_two_cores() -> None:
    """Like the quickstart: the actors that run together reserve at most two CPUs."""
    config: Config = load_config(CONFIG)
    pools = (config.rollout.pool, config.reward_model.pool, config.judge.pool, config.rules.pool)
    assert sum(pool.cpus * pool.replicas for pool in pools) + config.learner.cpus <= 2
