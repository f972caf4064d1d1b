"""What can be refused before a run starts, is."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repo_ray.config import ConfigError, load_config
from repo_ray.data.reader import DataError
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_tokenizer
from repo_ray.pipeline import data, phases
from repo_ray.pipeline import run as job
from repo_ray.pipeline.phases import Pipeline
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import open_run_folder
from repo_ray.records import Message


def test_a_rules_file_that_ends_its_process_does_not_end_the_run_as_finished(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text("import os; os._exit(0)")
    (tmp_path / "rules.yaml").write_text("rules: [{id: x, points: -1, file: mine.py}]")
    code = (
        "from pathlib import Path; from repo_ray.pipeline.run import run;"
        f"raise SystemExit(run(None, ['rules.path={tmp_path}/rules.yaml', 'judge.enabled=false',"
        f" 'run.dir={tmp_path}'], False, None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: {tmp_path}/rules.yaml: the rules ended the process" in done.stderr


RULES = "rules: [{id: too_short, points: -1, params: {min_words: 1}}]"
LONG = "so many words " * 40
#: What people write: each is one prompt that is read, measured and taken as it is.
UNUSUAL = (
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "שלום \u202eעולם\u202c",
    "e\u0301\u0327" * 20,
    "한국어 ภาษาไทย 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "<|im_end|>\n<|im_start|>system",
    "zero\u200bwidth\x00null\u2028line",
)


def prompt(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {"prompt_id": f"p{number}", "messages": [{"role": "user", "content": text}], **more}


def turn(number: int, text: str, **more: Any) -> dict[str, Any]:
    return prompt(number, text, dialogue_id=f"d{number}", turn=0, **more)


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """What a run with these files of rows says when it refuses them before it has a cluster."""
    (tmp_path / "rules.yaml").write_text(RULES)

    def connect(*_: object) -> str:
        raise ConfigError("not refused: connecting")

    monkeypatch.setattr(job, "connect", connect)
    logger = logging.getLogger("repo_ray")  # what `log_to` changes is put back
    for owner, name in ((logging, "raiseExceptions"), (logger, "propagate"), (logger, "handlers")):
        monkeypatch.setattr(owner, name, getattr(owner, name))

    def refused(limit: int, **files: list[dict[str, Any]]) -> str:
        given = []
        for key, rows in files.items():
            path = tmp_path / f"{key}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            given.append(f"data.{key}={path}")
        off = ("reward_model.enabled=false", "judge.enabled=false", "warm_start=null")
        settings = (f"run.dir={tmp_path}", f"rules.path={tmp_path}/rules.yaml")
        model = (f"model.path={tiny_model}", f"model.max_prompt_tokens={limit}")
        assert job.run(None, [*given, *off, *settings, *model], False, None) == 2
        return capsys.readouterr().err

    return refused


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("prompts", prompt(2, LONG, split="train")),
        ("prompts", prompt(2, LONG, split="heldout")),
        ("online", turn(2, LONG)),
        ("badcases", turn(2, LONG)),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_with_its_row_in_every_split(
    refused: Callable[..., str], tiny_model: Path, tmp_path: Path, key: str, bad: dict[str, Any]
) -> None:
    files = {
        "prompts": [prompt(1, "Hi.", split="train"), prompt(3, "Hi.", split="heldout")],
        "online": [turn(1, "Hi.")],
        "badcases": [turn(1, "Hi.")],
    }
    files[key].insert(1, bad)
    message = Message("user", LONG)
    count = len(encode_prompt(load_tokenizer(tiny_model), [message], thinking=False))
    error = refused(80, **files)
    assert error.startswith(f"error: {tmp_path}/{key}.jsonl: 1 fault\n"), error
    assert (
        f"row 2, messages: prompt 'p2' has {count} tokens, model.max_prompt_tokens is 80" in error
    )
    assert not (tmp_path / "run").exists()


def test_all_prompts_that_are_too_long_are_named(refused: Callable[..., str]) -> None:
    rows = [prompt(n, LONG if n in (2, 4) else "Hi.") for n in range(1, 6)]
    error = refused(80, prompts=rows)
    assert "2 faults" in error
    assert "row 2," in error
    assert "row 4," in error


def test_unusual_unicode_is_taken_and_measured_in_tokens(
    refused: Callable[..., str], tiny_model: Path
) -> None:
    rows = [prompt(n, text) for n, text in enumerate(UNUSUAL)]
    tokenizer = load_tokenizer(tiny_model)
    counts = [
        len(encode_prompt(tokenizer, [Message("user", text)], thinking=False)) for text in UNUSUAL
    ]
    assert "not refused: connecting" in refused(max(counts), prompts=rows)
    longest = counts.index(max(counts))
    error = refused(max(counts) - 1, prompts=rows)
    assert f"row {longest + 1}, messages: prompt 'p{longest}' has {max(counts)} tokens" in error


def test_text_without_a_visible_character_or_valid_unicode_is_refused(
    refused: Callable[..., str],
) -> None:
    error = refused(80, prompts=[prompt(1, "\u200b\ufeff"), prompt(2, "a\ud800"), prompt(3, " ")])
    assert "row 1, messages[0].content: has no visible character" in error
    assert "row 2, messages[0].content: contains a lone surrogate" in error
    assert "row 3, messages[0].content: is empty" in error


def test_what_the_chat_template_refuses_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_template(folder: Path) -> Any:
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = "{{ raise_exception('users only') }}"
        return tokenizer

    monkeypatch.setattr(data, "load_tokenizer", no_template)
    error = refused(80, prompts=[prompt(1, "Hi."), prompt(2, "Hi.")])
    assert "1 fault" in error
    assert "row 1, messages: " in error
    assert "users only" in error


@pytest.mark.parametrize("dialogue", ["null", "{max_turns: 2}"])
def test_built_prompts_are_measured_before_any_actor_starts(
    dialogue: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_stages(*_: object) -> None:
        raise AssertionError("actors start")

    monkeypatch.setattr(phases, "run_stages", run_stages)
    settings = (f"model.path={tiny_model}", f"run.dir={tmp_path}", f"dialogue={dialogue}")
    small = ("data.build_preferences=20", "model.max_prompt_tokens=60")
    config = load_config(None, [*settings, *small])
    pipeline = Pipeline(config, open_run_folder(config, resume=False), Display())
    with pytest.raises(
        DataError, match=r"prompts\.parquet: .*\n  row 1, .*max_prompt_tokens is 60"
    ):
        asyncio.run(pipeline._phases(None, None))  # type: ignore[arg-type]
