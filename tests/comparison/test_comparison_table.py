from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from repo_ray.comparison.cost import Cost, measured, reserved_gpus, rl_cost, supervised_cost
from repo_ray.comparison.report import write_page
from repo_ray.comparison.table import (
    Column,
    agreement_markdown,
    comparison_json,
    cost_markdown,
    markdown,
)
from repo_ray.config.load import validate
from repo_ray.evaluation.hacking import SOURCES, agreement


def reply(dialogue: int, rating: int, kind: str = "online", **fields: Any) -> dict[str, Any]:
    row = {
        "set": kind,
        "dialogue_id": f"{kind}-{dialogue}",
        "turn": 1,
        "issue": None,
        "reply": f"fine {rating}",
        "finish_reason": "stop",
        "tokens": 3,
        "gold_score": rating / 5,
        "rating": rating,
        "excellent": rating == 5,
        "scope": "ok",
        "fluency": True,
        "workflow_compliance": True,
        "negotiation_effectiveness": False,
        "scope_understanding": True,
        "issues": "[]",
        "merits": "{}",
        "scores": None,
        "reward": None,
    }
    return row | fields


def cost(seen: int) -> Cost:
    return Cost(seen, 10, 20, 60.0, 120.0, 0.0, 2.0, seen, seen)


def content(**changes: Any) -> dict[str, Any]:
    ours = [[reply(0, 5), reply(1, 3)], [reply(0, 4), reply(1, 4)]]
    columns = [
        Column("base", "Base", [[reply(0, 1), reply(1, 2)]]),
        Column("repo", "REPO", ours, [cost(10), cost(30)]),
    ]
    found = comparison_json(columns, "repo", 200, 0)
    empty: dict[str, Any] = {"curves": {}, "agreement": []}
    return found | {"name": "c", "budget": 8, "seeds": [0, 1]} | empty | changes


def by_key(found: dict[str, Any]) -> dict[str, Any]:
    return {c["key"]: c for c in found["columns"]}


def test_a_method_is_the_mean_over_dialogues_of_all_its_seeds() -> None:
    found = by_key(content())
    assert found["repo"]["seeds"] == 2
    rating = found["repo"]["measures"]["dialogue_rating"]
    assert rating["value"] == pytest.approx((5 + 3 + 4 + 4) / 4)
    assert rating["n"] == 2  # dialogues, each with the replies of both seeds
    assert found["repo"]["by_seed"]["dialogue_rating"] == (4.0, 4.0)
    assert found["repo"]["measures"]["excellent_dialogues"]["value"] == pytest.approx(1 / 4)


def test_differences_are_reference_minus_method_on_the_same_dialogues() -> None:
    found = by_key(content())
    assert found["repo"]["differences"] == {}
    gap = found["base"]["differences"]["dialogue_rating"]
    assert gap["value"] == pytest.approx(4.0 - 1.5)
    assert gap["n"] == 2
    assert gap["low"] <= gap["value"] <= gap["high"]


def test_the_markdown_shows_values_intervals_and_mean_costs() -> None:
    lines = markdown(content()).splitlines()
    assert lines[0].startswith("| | Dialogue rating (1-5) | Dialogues with an excellent reply |")
    assert lines[3].startswith("| REPO | 4.00 [")
    assert "– |" in lines[3]  # no bad cases were evaluated: absent, not zero
    costs = cost_markdown(content()).splitlines()
    assert len(costs) == 3
    assert costs[2] == "| REPO | 20 | 10 | 20 | 1.0 | 2.0 | 0.0 | 2.0 | 20 | 20 |"


def agreements() -> list[dict[str, Any]]:
    rows = [
        {"reward": r, "r_model": -r, "e_judge": 1.0, "e_func": float(i == 7), "gold_score": i / 40}
        for i, r in enumerate(range(40))
    ]
    found = {s: asdict(agreement(rows, s, resamples=50)) for s in SOURCES}
    return [{"title": "REPO", "samples": 40, **found}]


def test_the_markdown_shows_what_each_part_of_the_reward_knows() -> None:
    lines = agreement_markdown(content(agreement=agreements())).splitlines()
    assert lines[0] == "| | total | reward model | judge | rules |"
    total, model, judge, rules = lines[2].strip("| ").split(" | ")[1:]
    assert total == "+1.00 [+1.00, +1.00]"
    assert model == "-1.00 [-1.00, -1.00]"
    assert judge == "–"  # the same for all: it says nothing
    assert float(rules.split()[0]) == pytest.approx(-0.18, abs=0.02)
    assert agreement_markdown(content()) == ""


def test_the_page_is_self_contained_and_escapes(tmp_path: Path) -> None:
    curve = [{"step": s, "gold_score": s / 50, "reward": 0.0, "tokens": 9.0} for s in (1, 40)]
    page = tmp_path / "page.html"
    write_page(page, content(name="<b>c</b>", curves={"repo-seed0": curve}, agreement=agreements()))
    text = page.read_text()
    assert "<b>c</b>" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count('class="mark"') == 3  # the paper's phase at step 30, in each of three charts
    assert "paper 4.63" in text


def test_costs_add_up_over_attempts(tmp_path: Path) -> None:
    for _ in range(2):
        with measured(tmp_path, 2.0):
            sum(range(200_000))
    with pytest.raises(KeyError), measured(tmp_path, 2.0):
        raise KeyError  # an attempt that fails has its price too
    assert len((tmp_path / "attempts.jsonl").read_text().splitlines()) == 3
    steps = [
        {"rollout/tokens": 40, "tokens_total": 100.0, "latency/judge_s": 0.1},
        {"rollout/tokens": 10, "tokens_total": 50.0, "latency/judge_s": 0.1},
    ]
    steps = [{**s, "ledger": {"samples": 7}} for s in steps]
    found = rl_cost(tmp_path, steps)
    assert (found.seen, found.tokens_sampled, found.tokens_learned) == (7, 50, 150)
    assert (found.judge_calls, found.reward_model_calls) == (7, 0)
    attempts = [json.loads(x) for x in (tmp_path / "attempts.jsonl").read_text().splitlines()]
    assert found.gpu_s == pytest.approx(2 * found.wall_s)
    assert found.wall_s == pytest.approx(sum(a["wall_s"] for a in attempts))
    assert found.peak_memory_gib == max(a["peak_memory_gib"] for a in attempts)
    assert supervised_cost(tmp_path, {"rows_seen": 9, "tokens": 90}).tokens_learned == 90


def test_a_supervised_training_reserves_one_learner_rank_and_an_rl_run_everything() -> None:
    def pool(gpus: float, replicas: int) -> dict[str, Any]:
        return {"pool": {"gpus": gpus, "replicas": replicas}}

    tree = {
        "learner": {"gpus": 1, "world_size": 2},
        "rollout": pool(2, 3),
        "reward_model": pool(0.5, 2),
        "judge": {**pool(1, 4), "enabled": False},
    }
    config = validate(tree, "test")
    assert reserved_gpus(config, supervised=True) == 1
    assert reserved_gpus(config, supervised=False) == 2 + 6 + 1
