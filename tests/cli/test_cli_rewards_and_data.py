"""Commands over data and rewards, in process: what they print and how they end."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from repo_ray.cli import app
from repo_ray.config import dump_config
from repo_ray.config.load import validate
from repo_ray.records import TRAJECTORIES_SCHEMA

CONTEXT = {
    "stage": "ask",
    "items": [
        {
            "ticket": "T1",
            "room": "Deluxe King",
            "selling_price": 468,
            "net_price": 410,
            "competitor_price": 439,
            "target_price": 380,
            "mandate": 395,
        }
    ],
    "quotes": {},
    "agreed": [],
}
SYSTEM = "You negotiate net room prices."


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


def test_built_data_passes_validation(tmp_path):
    result = invoke("data", "build", "--out", str(tmp_path), "--preferences", "40")
    assert result.exit_code == 0, result.output
    file = str(tmp_path / "preferences.parquet")
    assert "preferences.parquet" in result.output
    assert invoke("data", "validate", file, "--kind", "preferences").exit_code == 0


def test_validate_names_row_and_field(tmp_path):
    file = tmp_path / "prompts.jsonl"
    good = {"prompt_id": "a", "messages": [{"role": "user", "content": "hi"}]}
    bad = {"prompt_id": "b", "messages": [{"role": "robot", "content": "hi"}]}
    file.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    result = invoke("data", "validate", str(file), "--kind", "prompts")
    assert result.exit_code == 2
    assert "robot" in result.stdout
    assert "1 fault" in result.stderr
    assert invoke("data", "validate", str(file), "--kind", "nonsense").exit_code == 2


def test_score_shows_rules_and_total():
    result = invoke(
        *("score", "--context", json.dumps(CONTEXT), "--message", "What do you want?"),
        *("--reply", "Our target price is 380, can you do it?"),
    )
    assert result.exit_code == 0, result.output
    assert "leaked_internal_terms" in result.output
    assert "R_total" in result.output
    assert "reward model left out" in result.output


def test_score_reads_a_prompt_row_from_a_file(tmp_path):
    row = {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "What do you want?"},
        ],
        "context": json.dumps(CONTEXT),
    }
    file = tmp_path / "row.json"
    file.write_text(json.dumps(row))
    result = invoke("score", "--context", str(file), "--reply", "Could you do 380 net for T1?")
    assert result.exit_code == 0, result.output
    assert "E_func" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--context", "{", "--message", "x"), "not valid JSON"),
        (("--context", "no-such-file"), "no-such-file"),
        (("--context", "{}"), "--message"),
        (("--run", "no-such-run", "--message", "x"), "not a run folder"),
    ],
)
def test_score_refuses_bad_input(arguments, words):
    result = invoke("score", "--reply", "Hello.", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def trajectory(sample, reply, reward):
    row = dict.fromkeys(TRAJECTORIES_SCHEMA.names)
    return row | {
        "step": 0,
        "sample_id": sample,
        "prompt_id": sample,
        "messages": [{"role": "user", "content": "What do you want?"}],
        "context": json.dumps(CONTEXT),
        "reply": reply,
        "r_model": 1.0,
        "e_judge": 0.0,
        "e_func": 0.0,
        "reward": reward,
        "scores": "{}",
    }


def test_rescore_shows_which_samples_change_rank(tmp_path):
    run = tmp_path / "run"
    (run / "trajectories").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(validate({}, "test")))
    rows = [
        trajectory("short", "Could you lower it?", 0.5),
        trajectory("rude", "Give us the damn discount now.", 1.0),
    ]
    table = pa.Table.from_pylist(rows, schema=TRAJECTORIES_SCHEMA)
    pq.write_table(table, run / "trajectories" / "step-000000.parquet")
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - {id: forbidden_words, points: -90, params: {terms: [damn]}}\n")
    out = tmp_path / "all.parquet"
    result = invoke("rescore", str(run), "--rules", str(rules), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "2 of 2 samples change rank" in result.output
    new = {row["sample_id"]: row for row in pq.read_table(out).to_pylist()}
    assert new["rude"]["new_e_func"] == -90
    assert new["rude"]["new_reward"] == pytest.approx(0.1)  # 1 + |1| * -90/100
    assert (new["short"]["new_rank"], new["rude"]["new_rank"]) == (1, 2)


def test_rescore_refuses_what_is_no_run_and_nothing_to_try(tmp_path):
    assert invoke("rescore", str(tmp_path), "--rules", "x.yaml").exit_code == 2
