"""Held-out checks through the real loop and the real statistics; pools and learner are stand-ins."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import repo_ray
from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config import Config
from repo_ray.config.load import validate
from repo_ray.config.monitor import MonitorConfig
from repo_ray.evaluation.report import ReportData, render
from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.pipeline.monitor import (
    affordable_prompts,
    check_steps,
    heldout_folder,
    read_checks,
    start_monitor,
)
from repo_ray.records import PROMPTS_SCHEMA, Prompt, Rollout, Score, ScoreDetail
from repo_ray.training.checkpoints import latest_checkpoint
from repo_ray.training.loop import Controller
from repo_ray.training.metrics import read_metrics
from repo_ray.training.schedule import Schedule

FLATTERY = "You are wonderful, truly wonderful, the most wonderful and kind partner of all. "

Reply = Callable[[int, Prompt], str]


class Pool:
    """Answers `call` by a function and remembers what it was asked."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, method: str, *arguments: Any) -> Any:
        self.calls.append(arguments)
        await asyncio.sleep(0)
        return self.answer(*arguments)

    async def broadcast(self, method: str, *arguments: Any) -> dict[str, Any]:
        return {}


class System:
    """A policy that is nothing but its number of updates; rules that pay for one word."""

    def __init__(self, prompts: list[Prompt], reply: Reply) -> None:
        self.version = 0
        by_id = {prompt.prompt_id: prompt for prompt in prompts}

        def sample(sample_id: str, prompt_id: str, attempt: int, ids: Any, seed: int) -> Rollout:
            text = reply(self.version, by_id[prompt_id])
            version = (self.version,)
            return Rollout(
                sample_id, prompt_id, attempt, (1,), (7,), (True,), (-0.5,), version, "stop", text
            )

        def rules(prompt: Prompt, text: str) -> Score:
            points = 10.0 * text.count("wonderful")
            return Score("rules", points, {"paid": ScoreDetail(points, "wonderful")})

        self.rollout = Pool(sample)
        self.scorers = {"rules": Pool(rules)}
        self.pools: dict[str, Any] = {}
        self.current = None
        self.verified: dict[str, int] = {}
        self.learner = self.publisher = self

    async def update(self, batch: Any) -> UpdateResult:
        return UpdateResult({}, [])

    async def adapter_blob(self, name: str) -> bytes:
        return b"blob"

    async def save(self, folder: Path) -> None:
        (folder / "weights").write_text(str(self.version))

    async def push(self, pool: Any, blob: bytes, version: int) -> list[Any]:
        self.version = version
        return []

    @property
    def heldout_calls(self) -> list[tuple[Any, ...]]:
        return [call for call in self.rollout.calls if call[0].startswith("heldout-")]


def mailbox() -> Any:
    async def next_request(timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def report(status: Any) -> None: ...

    return SimpleNamespace(next_request=next_request, report=report)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, str]]]:
    """Prompts whose good and bad reply is known, by prompt id."""
    folder = tmp_path_factory.mktemp("data")
    build_datasets(folder, 5, 240)
    pairs = pq.read_table(folder / "preferences.parquet").to_pylist()
    columns = [name for name in PROMPTS_SCHEMA.names if name != "hidden"]
    rows = [{**{name: pair[name] for name in columns}, "hidden": None} for pair in pairs]
    path = folder / "own.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA), path)
    return path, {pair["prompt_id"]: (pair["chosen"], pair["rejected"]) for pair in pairs}


def settings(runs: Path, **monitor: Any) -> Config:
    tree = {
        "run": {"name": "r", "dir": str(runs), "batch_size": 4, "steps": 6, "checkpoint_every": 2},
        "reward_model": {"enabled": False},
        "judge": {"enabled": False},
        "monitor": {"every": 2, "prompts": 24, "max_share": 10.0} | monitor,
    }
    return validate(tree, "test")


def train(config: Config, root: Path, prompts: Path, reply: Reply, stop_after: int = 99) -> System:
    """Trains, or continues, as the pipeline does; asks to stop after so many updates."""
    from repo_ray.data.reader import read_prompts

    system = System(read_prompts(prompts), reply)
    checkpoint = latest_checkpoint(root / "checkpoints")
    done = checkpoint.step if checkpoint else 0
    system.version = done
    schedule = Schedule.of(read_prompts(prompts, split="train"), config.run, 1)
    made = start_monitor(
        config,
        root,
        system,
        lambda prompt: [1],
        prompts,
        schedule.steps,
        done,  # type: ignore[arg-type]
    )
    assert made is not None
    monitor = made

    async def after_step(step: int) -> dict[str, Any]:
        if step == stop_after:
            controller.request_stop()
        return await monitor.after_step(step)

    controller = Controller(
        config,
        root,
        system,  # type: ignore[arg-type]
        schedule,
        lambda prompt: [1],
        mailbox(),
        lambda *_: None,
        checkpoint,
        after_step,
    )
    asyncio.run(controller.train())
    return system


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but `parts`."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 2**32


def test_a_policy_that_games_the_reward_raises_the_alarm(
    data: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, replies = data

    def hacks(version: int, prompt: Prompt) -> str:
        good = replies[prompt.prompt_id][0]
        return FLATTERY if chance(prompt.prompt_id, version) < version / 6 else good

    config = settings(tmp_path)
    with caplog.at_level(logging.WARNING, "repo_ray"):
        system = train(config, tmp_path, path, hacks)
    metrics = read_metrics(tmp_path, 0)
    checks = {row["step"]: row for row in metrics if "heldout/samples" in row}
    assert list(checks) == [0, 2, 4, 6]
    assert [row["step"] for row in metrics] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert "alarm/hacking" not in checks[0]
    assert [checks[step]["alarm/hacking"] for step in (4, 6)] == [1, 1]
    assert checks[6]["heldout/proxy"] > checks[0]["heldout/proxy"]
    assert checks[6]["heldout/gold"] < 0.5 * checks[0]["heldout/gold"]
    assert checks[6]["alarm/proxy_low"] > 0 > checks[6]["alarm/gold_high"]
    assert checks[4]["heldout/gold_correlation_e_func"] < 0
    assert checks[6]["alarm/collapse"] == 1
    assert "reward hacking: the reward rose while the gold score fell" in caplog.text

    rows = read_checks(tmp_path)
    assert {row["step"] for row in rows} == {0, 2, 4, 6}
    assert len(system.heldout_calls) == 4 * 24
    # By hand: without a reward model R is 1, so the reward is 1 + points / 100.
    for row in rows:
        points = 10.0 * row["reply"].count("wonderful")
        assert row["reward"] == pytest.approx(1 + points / 100)
        assert row["e_func"] == points

    first = min(step for step, row in checks.items() if row.get("alarm/hacking"))
    page = render(ReportData({}, metrics, {}, heldout=rows))
    assert f"Alarm after step {first}" in page
    assert "What the alarm is about" in page
    assert "truly wonderful" in page
    assert f"after step {first}" in page


def test_a_policy_that_learns_raises_none(data: Any, tmp_path: Path) -> None:
    path, replies = data

    def learns(version: int, prompt: Prompt) -> str:
        good, bad = replies[prompt.prompt_id]
        if chance(prompt.prompt_id, version) >= version / 6:
            return bad
        return good + " You are wonderful."  # the reward rises too

    train(settings(tmp_path), tmp_path, path, learns)
    metrics = read_metrics(tmp_path, 0)
    last = metrics[-1]
    assert not any(row.get("alarm/hacking") for row in metrics)
    assert last["alarm/proxy_low"] > 0
    assert last["alarm/gold_low"] > 0
    page = render(ReportData({}, metrics, {}, heldout=read_checks(tmp_path)))
    assert "No sign of it" in page
    assert "What the alarm is about" not in page


def test_a_resumed_run_continues_its_checks(data: Any, tmp_path: Path) -> None:
    path, replies = data

    def reply(version: int, prompt: Prompt) -> str:
        return replies[prompt.prompt_id][0] if version else "Thank you."

    config = settings(tmp_path, every=3)
    stopped = train(config, tmp_path, path, reply, stop_after=4)
    assert {call[0].split("-")[1] for call in stopped.heldout_calls} == {"0", "3"}
    before = read_checks(tmp_path)
    resumed = train(config, tmp_path, path, reply)
    assert {call[0].split("-")[1] for call in resumed.heldout_calls} == {"6"}
    assert read_checks(tmp_path)[: len(before)] == before
    metrics = read_metrics(tmp_path, 0)
    assert [row["step"] for row in metrics] == [0, 1, 2, 3, 4, 5, 6]
    # The last check is compared with step 0, which was measured before the stop.
    assert metrics[-1]["alarm/since"] == 0
    assert metrics[-1]["alarm/gold_value"] > 0


def test_without_a_checkpoint_step_0_is_kept_and_later_checks_are_made_again(
    data: Any, tmp_path: Path
) -> None:
    path, replies = data

    def reply(version: int, prompt: Prompt) -> str:
        if version == 2:
            raise RuntimeError("the run dies")
        return replies[prompt.prompt_id][0]

    config = settings(tmp_path, every=1)
    with pytest.raises(RuntimeError, match="the run dies"):
        train(config, tmp_path, path, reply)
    assert {row["step"] for row in read_checks(tmp_path)} == {0, 1}
    again = train(config, tmp_path, path, lambda v, p: replies[p.prompt_id][0])
    assert {call[0].split("-")[1] for call in again.heldout_calls} == {*"123456"}
    assert [row["step"] for row in read_metrics(tmp_path, 0)] == [0, 1, 2, 3, 4, 5, 6]


def test_every_check_asks_the_same_prompts_with_the_same_seeds(data: Any, tmp_path: Path) -> None:
    path, replies = data
    system = train(settings(tmp_path), tmp_path, path, lambda v, p: replies[p.prompt_id][0])
    asked: dict[str, set[tuple[str, int]]] = {}
    for sample_id, prompt_id, _, _, seed in system.heldout_calls:
        asked.setdefault(sample_id.split("-")[1], set()).add((prompt_id, seed))
    assert len(asked) == 4
    assert all(pairs == asked["0"] for pairs in asked.values())
    assert len({seed for _, seed in asked["0"]}) == 24
    trained = {call[1] for call in system.rollout.calls if not call[0].startswith("heldout-")}
    assert not trained & {prompt_id for prompt_id, _ in asked["0"]}


def test_a_missing_reply_and_an_invalid_score_are_counted_not_made_up(
    data: Any, tmp_path: Path
) -> None:
    path, replies = data
    config = settings(tmp_path)
    system = System([], lambda v, p: "")
    prompts = {}

    def sample(sample_id: str, prompt_id: str, *_: Any) -> Rollout:
        prompts[prompt_id] = len(prompts)
        if prompts[prompt_id] == 0:
            raise CallTimeoutError("rollout-0.sample took longer than 5 s")
        text = replies[prompt_id][0]
        return Rollout(sample_id, prompt_id, 0, (1,), (7,), (True,), (-0.5,), (0,), "stop", text)

    def rules(prompt: Prompt, text: str) -> Score:
        if prompts[prompt.prompt_id] == 1:
            return Score.invalid("rules", "raised: rule x")
        return Score("rules", 10.0)

    system.rollout, system.scorers = Pool(sample), {"rules": Pool(rules)}
    monitor = start_monitor(config, tmp_path, system, lambda p: [1], path, 6, 0)  # type: ignore[arg-type]
    assert monitor is not None
    values = asyncio.run(monitor.after_step(0))
    assert (values["heldout/samples"], values["heldout/missing"]) == (23, 2)
    assert values["heldout/proxy"] == pytest.approx(1.1)
    invalid = [row for row in read_checks(tmp_path) if row["reward"] is None]
    assert len(invalid) == 1
    assert invalid[0]["gold_score"] > 0
    assert json.loads(invalid[0]["scores"])["rules"]["error"] == "raised: rule x"
    assert asyncio.run(monitor.after_step(1)) == {}


def test_checks_are_at_the_start_each_so_many_steps_and_at_the_end() -> None:
    assert check_steps(10, 25) == [0, 10, 20, 25]
    assert check_steps(10, 20) == [0, 10, 20]
    assert check_steps(50, 20) == [0, 20]


def test_the_default_costs_less_than_a_tenth_of_the_papers_samples() -> None:
    default = MonitorConfig()
    assert affordable_prompts(default, 104, 128) >= default.prompts
    assert len(check_steps(default.every, 104)) * default.prompts <= 0.1 * 104 * 128


def test_the_share_bounds_the_prompts(
    data: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, replies = data
    # 6 steps of 4 are 24 samples; checks after 0, 2, 4 and 6 steps share 48 or 24 of them.
    system = train(
        settings(tmp_path, max_share=2.0), tmp_path, path, lambda v, p: replies[p.prompt_id][0]
    )
    assert len(system.heldout_calls) == 4 * 12
    few = settings(tmp_path, max_share=1.0)
    arguments: Any = (tmp_path / "few", system, lambda p: [1], path, 6, 0)
    assert start_monitor(few, *arguments) is None
    assert "6 prompts would be left" in caplog.text
    assert start_monitor(settings(tmp_path, every=0), *arguments) is None
    assert not heldout_folder(tmp_path / "few").exists()


def test_data_without_held_out_prompts_is_trained_on_unwatched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "own.jsonl"
    rows = [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": "hi"}], "split": "train"}
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments: Any = (tmp_path, System([], lambda v, p: ""), lambda p: [1], path, 6, 0)
    assert start_monitor(settings(tmp_path), *arguments) is None
    assert "0 held-out prompts that fit" in caplog.text


@pytest.mark.parametrize("room", ["training", "learner", "actors", "rollouts", "rewards"])
def test_what_trains_imports_neither_evaluation_nor_pipeline(room: str) -> None:
    """Gold scores reach the loop as numbers for its log, through the hook alone."""
    files = sorted((Path(repo_ray.__file__).parent / room).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert not module.startswith(("repo_ray.evaluation", "repo_ray.pipeline")), path
