"""The study's summary and tables, of a folder whose figures are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from repo_ray.benchmark.merge_report import markdown, summarise
from repo_ray.benchmark.merge_study import MARKS, MODES, SAMPLED, STARTS, points

FIRST = [-1.0, -2.0, -3.0]
KEPT = {"share_lost": 0.25, "norm": 0.5, "cosine": 0.75, "slope": 0.125}


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """At step s the exact log-probs have moved by s/100 of (1, -2, 1); what is rounded to the
    nearest number by half of that, the engines by none of it."""
    out = tmp_path_factory.mktemp("study")
    learner = {}
    for start in STARTS:
        for lr, steps in MARKS.items():
            rows = [{"start": start.name, "lr": lr, "step": s} for s in steps]
            rows = [r | {"since_start": KEPT, "last_push": KEPT} for r in rows]
            write(out / "weights" / f"{start.name}_{lr:g}.json", rows)
        names = points(start)
        write(out / "dithered" / f"{start.name}.json", {n: KEPT for n, _, s in names if s})
        forward, engine = {}, {}
        for name, lr, step in names:
            moved = [x + step / 100 * d for x, d in zip(FIRST, (1, -2, 1), strict=True)]
            half = [x + step / 200 * d for x, d in zip(FIRST, (1, -2, 1), strict=True)]
            exact = dict.fromkeys(("learner", "exact", "dithered", "native"), moved)
            forward[name] = exact | {"nearest": half}
            engine[name] = {"push_s": 2.0, "probes": FIRST}
            if (lr, step) == (1e-6, max(SAMPLED[1e-6])):
                engine[name] |= {"tokens_per_s": 100.0, "replies": [{"logprobs": [-1.0, -1.0]}]}
                learner |= {f"{mode}/{name}": [-1.0, -2.0] for mode in MODES}
        write(out / "forward" / f"{start.name}.json", forward)
        for mode in MODES:
            write(out / "engines" / f"{mode}_{start.name}.json", engine)
    return summarise(out, learner)


def test_the_summary_by_hand(content: dict[str, Any]) -> None:
    assert len(content["weights"]) == len(STARTS) * sum(map(len, MARKS.values()))
    assert len(content["logprobs"]) == len(STARTS) * (1 + sum(map(len, SAMPLED.values())))
    row = next(r for r in content["logprobs"] if r["step"] == 100)
    slopes = {k: r["slope"] for k, r in row["followed"].items()}
    assert slopes["nearest"] == pytest.approx(0.5, abs=1e-6)
    assert slopes["dithered"] == slopes["learner"] == pytest.approx(1.0)
    assert slopes["engine native"] == 0.0
    # k3 of log-ratios 1, -2, 1.
    moved = (2 * (math.e - 2) + math.exp(-2) + 1) / 3
    assert row["exact_moved_kl"] == pytest.approx(moved, rel=1e-6)
    assert row["mismatch_kl"]["engine merged"] == pytest.approx(moved, rel=1e-6)
    assert row["moved_kl"]["engine merged"] == 0.0
    # One of two tokens differs, by -1: half of exp(-1).
    sampled = content["sampled"][0]
    assert sampled["mismatch_kl"] == pytest.approx(math.exp(-1) / 2)
    assert content["push_s"] == dict.fromkeys(MODES, 2.0)


def test_the_tables_have_every_measurement(content: dict[str, Any]) -> None:
    machine = {"hardware": "h", "torch": "1", "vllm": "2"}
    text = markdown(content | {"machine": machine})
    cell = "25.0%; 0.500, 0.750, 0.125"
    marked, sampled = (sum(map(len, steps.values())) for steps in (MARKS, SAMPLED))
    assert text.count(cell) == len(STARTS) * (2 * marked + sampled)
    assert "| base | 1e-06 | 100 | 1.41e+00 | 0.50 ± 0.00, 1.00 | 1.00 ± 0.00, 1.00 |" in text
    assert "| native | base_1e-06_100 | 1.84e-01 | 100 | 2.00 |" in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)
    assert len(tables) == 5
