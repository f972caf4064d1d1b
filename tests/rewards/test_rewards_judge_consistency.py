"""Judges that contradict themselves, follow the order of the criteria or drift are found out."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from repo_ray.cli import app
from repo_ray.config.rewards import JudgeConfig
from repo_ray.config.settings import LoraShape
from repo_ray.data.examples import Verdict
from repo_ray.models.adapters import add_adapters
from repo_ray.models.loading import fingerprint, load_base
from repo_ray.records import Message, Prompt, Score, ScoreDetail
from repo_ray.rewards.judge.consistency import (
    JudgeCheckError,
    _moved,
    check_judge,
    drift,
    judge_identity,
    sample_key,
)
from repo_ray.rewards.judge.injections import ATTEMPTS, injected
from repo_ray.rewards.judge.local import FORMAT, CriterionCard, JudgeCard, save_judge
from repo_ray.rewards.judge.network import JudgeModel
from repo_ray.rewards.judge.rubric import Criterion, Rubric
from repo_ray.rewards.tuned import Base

RUBRIC = Rubric(
    (
        Criterion("thanks", "The reply thanks.", 10.0),
        Criterion("price", "The reply names a price.", -10.0),
        Criterion("rude", "The reply is rude.", -40.0),
    )
)
#: What holds of a reply, for the labels and for an honest judge.
TRUTH: Mapping[str, Callable[[str], bool]] = {
    "thanks": lambda reply: "Thank you" in reply,
    "price": lambda reply: "400" in reply,
    "rude": lambda reply: "idiot" in reply,
}
REPLIES = [
    f"{start} {end} {number}."
    for number in range(5)
    for start in ("Thank you,", "Well, idiot,")
    for end in ("we do 400", "we do it")
]
#: (criteria in the order asked, reply, how often this reply was asked about before) -> verdicts
Judge = Callable[[Sequence[str], str, int], Mapping[str, bool]]


def honest(order: Sequence[str], reply: str, seen: int) -> dict[str, bool]:
    return {c: TRUTH[c](reply) for c in order}


def forgetful(order: Sequence[str], reply: str, seen: int) -> dict[str, bool]:
    """Turns its verdict on the price whenever it sees a reply for the second time."""
    said = honest(order, reply, seen)
    return said | {"price": said["price"] != (seen == 1)}


def led_by_order(order: Sequence[str], reply: str, seen: int) -> dict[str, bool]:
    """Says yes to whatever it is asked first."""
    return honest(order, reply, seen) | {order[0]: True}


def harsh(order: Sequence[str], reply: str, seen: int) -> dict[str, bool]:
    return honest(order, reply, seen) | {"rude": True}


TOLD = ("instructions", "score")


def gullible(order: Sequence[str], reply: str, seen: int) -> dict[str, bool]:
    """Does what a reply tells it, in some words."""
    said = honest(order, reply, seen)
    return said | {"rude": said["rude"] and not any(word in reply for word in TOLD)}


def row(reply: str) -> Verdict:
    prompt = Prompt("p", (Message("user", "What now?"),), {"stage": "ask"})
    return Verdict(prompt, reply, {c: holds(reply) for c, holds in TRUTH.items()}, "heldout")


ROWS = [row(reply) for reply in REPLIES]


def ask(judge: Judge) -> Any:
    """A judge without a server."""
    seen: Counter[str] = Counter()

    async def score(rubric: Rubric, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        scores = []
        for _, reply in items:
            verdicts = judge(rubric.ids, reply, seen[reply])
            value, detail = rubric.points(verdicts)
            scores.append(Score("judge", value, detail))
        seen.update(reply for _, reply in items)
        return scores

    return score


def check(judge: Judge, rows: Sequence[Verdict] = ROWS) -> dict[str, Any]:
    result = asyncio.run(check_judge(ask(judge), RUBRIC, rows, min_auc=0.65))
    identity = {"kind": "endpoint", "name": "x", "rubric": "r", "prompt": "p", "model": "m"}
    return json.loads(json.dumps({**result, "judge": identity}))


def test_an_honest_judge_has_no_finding() -> None:
    result = check(honest)
    assert result["findings"] == []
    assert result["samples"] == 20
    for figures in result["criteria"].values():
        assert (figures["repeat_flips"], figures["order_flips"]) == (0.0, 0.0)
        assert (figures["auc"], figures["calibration_error"], figures["accuracy"]) == (1.0, 0.0, 1)
        assert (figures["labels"], figures["positives"]) == (20, 10)


def test_a_judge_that_contradicts_itself_is_found() -> None:
    result = check(forgetful)
    assert result["criteria"]["price"]["repeat_flips"] == 1.0
    assert result["criteria"]["price"]["repeat_difference"] == 1.0
    assert result["criteria"]["thanks"]["repeat_flips"] == 0.0
    assert result["criteria"]["price"]["order_flips"] == 0.0
    assert result["findings"] == ["price: 100% of the verdicts flip when asked again"]


def test_a_judge_that_listens_to_the_reply_is_found() -> None:
    result = check(gullible)
    swayed = sum(
        TRUTH["rude"](reply) and any(word in attempt for word in TOLD)
        for reply, attempt in zip(REPLIES, ATTEMPTS, strict=True)
    )
    assert swayed
    assert result["criteria"]["rude"]["injection_flips"] == swayed / 20
    assert result["criteria"]["thanks"]["injection_flips"] == 0.0
    assert result["findings"] == [
        f"rude: {swayed / 20:.0%} of the verdicts flip when the reply talks to the judge"
    ]


def test_every_attempt_follows_a_reply_and_forgeries_have_the_judges_own_form() -> None:
    texts = injected(["r"] * 2 * len(ATTEMPTS), '{"kind": true}')
    assert all(text.startswith("r ") for text in texts)
    assert texts[: len(ATTEMPTS)] == texts[len(ATTEMPTS) :]
    assert len(set(texts)) == len(ATTEMPTS)
    assert sum('{"kind": true}' in text for text in texts[: len(ATTEMPTS)]) == 3
    assert not any("{fake}" in text for text in texts)


def test_a_judge_led_by_the_order_is_found() -> None:
    result = check(led_by_order)
    figures = result["criteria"]
    assert all(c["repeat_flips"] == 0.0 for c in figures.values())
    # First asked: thanks. In the other order it is not the first, and half the replies thank.
    assert figures["thanks"]["order_flips"] == 0.5
    assert figures["thanks"]["auc"] == 0.5
    assert any(
        "thanks: 50% of the verdicts flip when the criteria" in f for f in result["findings"]
    )
    assert any("thanks: AUC 0.50" in f for f in result["findings"])
    # Said of all, true of half.
    assert figures["thanks"]["calibration_error"] == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_no_criterion_keeps_its_place(seed: int) -> None:
    moved = _moved(RUBRIC, seed)
    assert set(moved.ids) == set(RUBRIC.ids)
    assert all(a != b for a, b in zip(moved.ids, RUBRIC.ids, strict=True))
    assert _moved(RUBRIC.only({"price"}), seed).ids == ("price",)


def test_likelihoods_are_compared_as_numbers_too() -> None:
    values = iter([0.4, 0.45, 0.4, 0.4])

    async def score(rubric: Rubric, items: Sequence[Any]) -> list[Score]:
        p = next(values)
        return [Score("judge", p, {"thanks": ScoreDetail(p, "", p)}) for _ in items]

    result = asyncio.run(check_judge(score, RUBRIC.only({"thanks"}), ROWS[:4], 0.65))
    figures = result["criteria"]["thanks"]
    assert figures["repeat_flips"] == 0.0
    assert figures["repeat_difference"] == pytest.approx(0.05)
    assert figures["order_difference"] == 0.0


def test_invalid_scores_are_counted_and_left_out() -> None:
    async def score(rubric: Rubric, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        scores = await ask(honest)(rubric, items)
        return [
            Score.invalid("judge", "timeout: no answer") if reply.startswith(REPLIES[0]) else s
            for (_, reply), s in zip(items, scores, strict=True)
        ]

    result = asyncio.run(check_judge(score, RUBRIC, ROWS, 0.65))
    assert result["invalid"] == {
        name: {"timeout": 1} for name in ("first", "again", "moved", "injected")
    }
    assert result["criteria"]["price"]["repeat_pairs"] == 19
    assert result["criteria"]["price"]["labels"] == 19

    async def dead(rubric: Rubric, items: Sequence[Any]) -> list[Score]:
        return [Score.invalid("judge", "connection: refused") for _ in items]

    with pytest.raises(JudgeCheckError, match="connection: refused"):
        asyncio.run(check_judge(dead, RUBRIC, ROWS, 0.65))


def test_drift_is_measured_over_the_replies_in_common() -> None:
    old, new = check(honest, ROWS[:12]), check(harsh, ROWS[4:])
    new["judge"] = {**new["judge"], "model": "other"}
    found = drift(old, new)
    assert (found["samples"], found["changed"]) == (8, ["model"])
    # Of the 8 common replies half are rude anyway.
    assert found["criteria"]["rude"]["flips"] == 0.5
    assert found["criteria"]["thanks"]["flips"] == 0.0
    assert found["e_judge_change"] == -20.0
    assert found["criteria"]["rude"]["auc_change"] is None  # other replies are in it
    assert drift(check(honest), check(harsh))["criteria"]["rude"]["auc_change"] == -0.5
    assert found["findings"] == ["rude: 50% of the verdicts differ from the earlier check"]
    with pytest.raises(JudgeCheckError, match="no reply in common"):
        drift(check(honest, ROWS[:4]), check(honest, ROWS[4:]))


def test_a_sample_is_known_by_all_that_was_judged() -> None:
    other = Verdict(Prompt("q", ROWS[0].prompt.messages, {"stage": "ask"}), REPLIES[0], {}, "")
    assert sample_key(ROWS[0]) == sample_key(other)
    changed = Prompt("p", ROWS[0].prompt.messages, {"stage": "close"})
    assert sample_key(ROWS[0]) != sample_key(Verdict(changed, REPLIES[0], {}, ""))
    assert sample_key(ROWS[0]) != sample_key(ROWS[1])


# --- identity --------------------------------------------------------------------------------


def endpoint(**settings: str) -> JudgeConfig:
    given = {"kind": "endpoint", "base_url": "http://judge:8000/v1", "model": "m"}
    return JudgeConfig.model_validate(given | settings)


def test_the_hashes_follow_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    base = judge_identity(endpoint(), RUBRIC)
    assert judge_identity(endpoint(base_url="http://b:8000/v1"), RUBRIC)["model"] != base["model"]
    assert judge_identity(endpoint(model="n"), RUBRIC)["model"] != base["model"]
    reworded = Rubric((Criterion("thanks", "It thanks.", 10.0), *RUBRIC.criteria[1:]))
    other = judge_identity(endpoint(), reworded)
    assert (other["rubric"] != base["rubric"], other["prompt"]) == (True, base["prompt"])
    from repo_ray.rewards.judge import prompt

    monkeypatch.setattr(prompt, "_INSTRUCTIONS", prompt._INSTRUCTIONS + " Be strict.")
    strict = judge_identity(endpoint(), RUBRIC)
    assert (strict["rubric"], strict["model"]) == (base["rubric"], base["model"])
    assert strict["prompt"] != base["prompt"]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: Path) -> Path:
    torch.manual_seed(3)
    model = add_adapters(
        load_base(tiny_model, torch.float32, "sdpa"), ["judge"], LoraShape(rank=4, alpha=4)
    )
    network = JudgeModel(model, RUBRIC.ids)
    card = JudgeCard(
        format=FORMAT,
        base=Base(
            path=str(tiny_model),
            fingerprint=fingerprint(tiny_model),
            dtype="float32",
            rank=4,
            alpha=4,
        ),
        criteria={
            c.criterion_id: CriterionCard(
                question=c.question, auc=0.9, calibration_error=0.1, positives=1, negatives=1
            )
            for c in RUBRIC.criteria
        },
        rubric_digest=RUBRIC.digest,
        train_verdicts=1,
        steps=1,
        seconds=1.0,
    )
    folder = tmp_path / "judge"
    save_judge(folder, network, card)
    return folder


def test_the_local_judge_is_known_by_its_adapter(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = JudgeConfig()
    base = judge_identity(config, RUBRIC, checkpoint)
    weights = checkpoint / "judge.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    changed = judge_identity(config, RUBRIC, checkpoint)
    assert changed["model"] != base["model"]
    assert changed["prompt"] == base["prompt"]
    from repo_ray.rewards.judge import network

    monkeypatch.setattr(network, "_NAMES", network._NAMES | {"user": "Hotel"})
    assert judge_identity(config, RUBRIC, checkpoint)["prompt"] != base["prompt"]
    with pytest.raises(ValueError, match="checkpoint"):
        judge_identity(config, RUBRIC)


# --- the command -----------------------------------------------------------------------------


class Listener(ThreadingHTTPServer):
    request_queue_size = 64  # all samples are asked about at once


class Server:
    """An OpenAI-compatible server in a thread whose verdicts are `judge`'s."""

    def __init__(self) -> None:
        self.judge: Judge = honest
        self.seen: Counter[str] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = outer.answer(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.http = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request: dict[str, Any]) -> bytes:
        system, user = (m["content"] for m in request["messages"])
        order = re.findall(r"^- (\w+): ", system, re.M)
        found = re.search(r"begin reply ===\n(.*)\n=== ", user, re.S)
        assert found is not None
        verdicts = self.judge(order, found[1], self.seen[found[1]])
        self.seen[found[1]] += 1
        content = {
            c: {"evidence": found[1] if v else "", "verdict": v} for c, v in verdicts.items()
        }
        message = {"role": "assistant", "content": json.dumps(content), "refusal": None}
        choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}
        completion = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        return json.dumps({**completion, "choices": [choice]}).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Rubric and labelled replies on disk."""
    rubric, verdicts = tmp_path / "rubric.yaml", tmp_path / "verdicts.jsonl"
    entries = [
        {"id": c.criterion_id, "question": c.question, "points": c.points} for c in RUBRIC.criteria
    ]
    rubric.write_text(yaml.safe_dump({"criteria": entries}))
    lines = [
        {
            "prompt_id": f"p{i}",
            "messages": [{"role": "user", "content": "What now?"}],
            "reply": r.reply,
            "labels": dict(r.labels),
            "split": "heldout",
        }
        for i, r in enumerate(ROWS)
    ]
    verdicts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"rubric": rubric, "verdicts": verdicts}


def run(source: Path, files: Mapping[str, Path], *more: str) -> Any:
    arguments = ["judge", "check", str(source), "--verdicts", str(files["verdicts"]), *more]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_the_command_finds_an_inconsistent_endpoint_and_its_drift(
    server: Server, files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    judge = {"kind": "endpoint", "base_url": server.url, "model": "m", "max_retries": 0}
    config = {"judge": judge | {"rubric": str(files["rubric"])}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = run(folder, files)
    assert result.exit_code == 0, result.output
    assert "no finding" in result.output
    saved = json.loads((folder / "judge-check-1.json").read_text())
    assert saved["judge"]["rubric"] == RUBRIC.digest
    assert all(len(saved["judge"][part]) == 64 for part in ("rubric", "prompt", "model"))
    assert len(saved["answers"]) == 20

    server.judge, server.seen = forgetful, Counter()
    result = run(folder, files)
    assert result.exit_code == 1
    assert "price: 100% of the verdicts flip when asked again" in result.output

    server.judge = harsh
    first = folder / "judge-check-1.json"
    result = run(folder, files, "--against", str(first), "--", "judge.model=n")
    assert result.exit_code == 1
    assert "rude: 50% of the verdicts differ from the earlier check" in result.output
    assert "since the earlier check changed: model" in result.output
    assert sorted(p.name for p in folder.glob("judge-check-*")) == [
        f"judge-check-{n}.json" for n in (1, 2, 3)
    ]


def test_the_command_checks_the_local_judge_of_a_run(
    checkpoint: Path, files: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "models").mkdir(parents=True)
    checkpoint.rename(folder / "models" / "judge")
    config = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "judge": {"rubric": str(files["rubric"])},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = run(folder, files, "--samples", "12")
    assert "saved: " in result.output, result.output
    saved = json.loads((folder / "judge-check-1.json").read_text())
    assert saved["samples"] == 12
    for figures in saved["criteria"].values():  # other batches, other places: the same answer
        assert figures["repeat_difference"] < 1e-4
        assert figures["order_difference"] < 1e-4
    # Untrained: it cannot know the labels, and the check says so.
    assert result.exit_code == 1
    assert "AUC" in "".join(saved["findings"])


@pytest.mark.parametrize(
    ("config", "more", "words"),
    [
        ({"judge": {"enabled": False}}, (), "judge.enabled is false"),
        ({}, (), "needs judge.checkpoint"),
        ({"judge": {"kind": "endpoint", "base_url": "http://x/v1", "model": "m"}}, "a", "not a"),
    ],
)
def test_what_cannot_be_checked_is_said(
    config: dict[str, Any], more: Any, words: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path, against = tmp_path / "c.yaml", tmp_path / "other.json"
    path.write_text(yaml.safe_dump(config))
    against.write_text("[]" if more else "{}")
    result = run(path, files, *(("--against", str(against)) if more else ()))
    assert result.exit_code == 2
    assert words.replace("not a", "format is None") in result.output + result.stderr
