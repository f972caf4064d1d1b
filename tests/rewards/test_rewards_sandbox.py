"""Rules that raise, hang, allocate, exit, fork, print or return nonsense, run for real."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_ray.records import Message, Prompt
from repo_ray.rewards.declaration import RewardConfigError
from repo_ray.rewards.rules.sandbox import RuleRunner

PROMPT = Prompt("p", (Message("user", "Good morning."),), {"depth": {"x": [1, None]}})

RULES = """
import os, sys, time
from repo_ray.rewards.rules import rule

def when(word, act):
    def check(reply, prompt):
        return act(prompt) if reply.startswith(word) else None
    return check

def fill(prompt):
    kept = []
    while True:
        kept.append(bytearray(16 * 2**20))

def loop(prompt):
    while True:
        pass

def stubborn(prompt):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def noisy(prompt):
    print("{}\\n" * 1000)
    os.write(1, b"\\x00\\x00\\x00\\x02{}" * 1000)
    return "printed"

def fork(prompt):
    if os.fork() == 0:
        return None
    return "forked"

harmless = rule("harmless")(when("harmless", lambda p: f"depth {p.context['depth']['x']}"))
raises = rule("raises")(when("raise", lambda p: 1 / 0))
hangs = rule("hangs")(when("hang", loop))
stubborn = rule("stubborn")(when("stubborn", stubborn))
fills = rule("fills")(when("fill", fill))
exits = rule("exits")(when("exit", lambda p: sys.exit(0)))
hard = rule("hard")(when("hard", lambda p: os._exit(3)))
forks = rule("forks")(when("fork", fork))
shells = rule("shells")(when("shell", lambda p: str(os.system("true"))))
prints = rule("prints")(when("print", noisy))
number = rule("number")(when("number", lambda p: 7))
empty = rule("empty")(when("empty", lambda p: ""))
"""
IDS = [
    "harmless",
    "raises",
    "hangs",
    "stubborn",
    "fills",
    "exits",
    "hard",
    "forks",
    "shells",
    "prints",
    "number",
    "empty",
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuleRunner]:
    folder = tmp_path_factory.mktemp("rules")
    (folder / "mine.py").write_text(RULES)
    entries = "".join(f"  - {{id: {i}, points: -2.5, file: mine.py}}\n" for i in IDS)
    (folder / "rules.yaml").write_text("rules:\n" + entries)
    runner = RuleRunner(folder / "rules.yaml", time_limit_s=1.0, memory_limit_mib=128)
    yield runner
    runner.close()


@pytest.fixture(autouse=True)
def _works_after(runner: RuleRunner) -> Iterator[None]:
    yield
    score = runner.score(PROMPT, "harmless é \ud800")
    assert score.value == -2.5
    assert score.detail["harmless"].reason == "depth [1, None]"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("raise", "raised: rule raises: ZeroDivisionError"),
        ("hang", "timeout: rule hangs"),
        ("stubborn", "timeout: rule stubborn"),
        ("fill", "memory: rule fills"),
        ("exit", "exited: rule exits"),
        ("hard", "exited: rule hard ended its process (exit status 3)"),
        ("fork", "raised: rule forks: PermissionError"),
        ("shell", "raised: rule shells: PermissionError"),
        ("number", "bad_result: rule number returned int"),
        ("empty", "bad_result: rule empty"),
    ],
)
def test_faulty_rule_makes_the_score_invalid_and_is_named(
    runner: RuleRunner, reply: str, error: str
) -> None:
    start = time.monotonic()
    score = runner.score(PROMPT, reply)
    assert not score.valid
    assert score.error.startswith(error), score.error
    assert time.monotonic() - start < 5


def test_printing_does_not_disturb_the_score(runner: RuleRunner) -> None:
    assert runner.score(PROMPT, "print").value == -2.5


def test_child_is_reused_and_replaced_only_when_it_must(runner: RuleRunner) -> None:
    runner.score(PROMPT, "harmless")
    before = runner.restarts
    for reply in ("raise", "number", "x" * 300_000):
        runner.score(PROMPT, reply)
    assert runner.restarts == before
    runner.score(PROMPT, "hang")
    runner.score(PROMPT, "nothing")
    assert runner.restarts == before + 1


def test_child_killed_from_outside_is_replaced(runner: RuleRunner) -> None:
    assert runner._process is not None
    os.kill(runner._process.pid, 9)
    time.sleep(0.2)
    assert runner.score(PROMPT, "harmless").value == -2.5


def test_close_leaves_no_process(tmp_path: Path) -> None:
    runner = RuleRunner()
    assert runner._process is not None
    pid = runner._process.pid
    runner.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_same_score_as_in_process() -> None:
    from repo_ray.rewards.rules import load_rules

    runner = RuleRunner()
    try:
        inside = load_rules().score(PROMPT, "**bold** [name]")
        outside = runner.score(PROMPT, "**bold** [name]")
        assert (outside.value, dict(outside.detail)) == (inside.value, dict(inside.detail))
        assert runner.digest == load_rules().digest
    finally:
        runner.close()


def test_bad_file_is_refused_at_construction(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules: [{id: nope, points: -1}]")
    with pytest.raises(
        RewardConfigError, match=r"rules\.yaml: rules\[0\]\.id: unknown rule 'nope'"
    ):
        RuleRunner(path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os._exit(0)", r"rules\.yaml: .* ended the process .* \(exit status 0\)"),
        ("while True: pass", r"rules\.yaml: the rules were not loaded within 6 s"),
        ("import os; os.system('true')", r"mine\.py: PermissionError: rules may not start"),
        ("kept = bytearray(2**40)", r"mine\.py: MemoryError"),
    ],
)
def test_a_rules_file_that_does_harm_when_it_is_loaded_is_refused(
    code: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "rules.yaml").write_text("rules: [{id: x, points: -1, file: mine.py}]")
    with pytest.raises(RewardConfigError, match=expected):
        RuleRunner(tmp_path / "rules.yaml", start_timeout_s=6.0)


def test_what_a_rules_file_imports_is_no_memory_of_its_rules(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy\nfrom repo_ray.rewards.rules import rule\n"
        "kept = bytearray(200 * 2**20)\n"
        "x = rule('x')(lambda reply, prompt: str(len(bytearray(100 * 2**20))))\n"
    )
    (tmp_path / "rules.yaml").write_text("rules: [{id: x, points: -1, file: mine.py}]")
    runner = RuleRunner(tmp_path / "rules.yaml", memory_limit_mib=128)
    try:
        assert runner.score(PROMPT, "reply").value == -1
    finally:
        runner.close()
