"""Amount parsing, stance reading, robustness, and the evaluator's independence."""

# ruff: noqa: SIM905 (word lists read better as text)

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from gold_cases import KING, SCENES, SYSTEM, Scene
from hypothesis import given, settings
from hypothesis import strategies as st

import repo_ray
from repo_ray.evaluation.gold import judge_reply
from repo_ray.evaluation.gold.amounts import (
    find_amounts,
    find_dates,
    find_percentages,
    spelled_value,
)
from repo_ray.evaluation.gold.hotelier import read_hotelier
from repo_ray.evaluation.gold.text_checks import copied_share, words_of
from repo_ray.records import Message

PACKAGE = Path(repo_ray.__file__).parent


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("could you do 395?", [395]),
        ("CNY 395, ¥380 or 1,288 yuan", [395, 380, 1288]),
        ("net 380yuan from 2026-03-14 for 2 nights", [380]),
        ("three hundred and eighty, or three ninety-five, or four oh five", [380, 395, 405]),
        ("on March 14 at 10:30, room 2, T1, 15% of 300 guests", []),
        ("between 380-390", [380, 390]),
        ("¥395.", [395]),
        ("1.2k per night", [1200]),
        ("room 380.5 net", [380]),
    ],
)
def test_amounts(text: str, values: list[int]) -> None:
    assert [a.value for a in find_amounts(text)] == values


@pytest.mark.parametrize(
    ("text", "difference"),
    [
        ("29 yuan cheaper elsewhere", True),
        ("lower it by 30 yuan", True),
        ("a gap of 29", True),
        ("only 380", False),
        ("439 is lower", False),
        ("lower than 439", False),
    ],
)
def test_a_gap_is_not_a_price(text: str, difference: bool) -> None:
    assert [a.difference for a in find_amounts(text)] == [difference]


@given(st.integers(60, 9999))
def test_every_written_amount_is_found(value: int) -> None:
    for text in (f"could you do {value}?", f"¥{value:,} net", f"{value} yuan"):
        assert [a.value for a in find_amounts(text)] == [value]


@given(st.integers(1, 9), st.integers(0, 99))
def test_spelled_hundreds(hundreds: int, rest: int) -> None:
    units = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ]
    tens = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    tail = (
        units[rest]
        if rest < 20
        else tens[rest // 10] + (f"-{units[rest % 10]}" if rest % 10 else "")
    )
    words = f"{units[hundreds]} hundred" + (f" and {tail}" if rest else "")
    assert spelled_value(words) == 100 * hundreds + rest


def test_dates_and_percentages() -> None:
    assert find_dates("March 14, 14th of April, 2026-05-06, 31 of them") == [
        (3, 14),
        (4, 14),
        (5, 6),
    ]
    assert find_percentages("6.5% or 30 percent") == [6.5, 30.0]


@pytest.mark.parametrize(
    ("text", "stance"),
    [
        ("...", "silent"),
        ("", "silent"),
        ("(no answer)", "silent"),
        ("Hmm, ok.", "vague"),
        ("I have to ask my boss first.", "vague"),
        ("No way, that is a loss for me.", "refuses"),
        ("Ok, 405 then, take it or leave it.", "counters"),
        ("Deal, go ahead and set it.", "agrees"),
        ("Yes, speaking.", "other"),
        ("Why should my price be lower than theirs?", "refuses"),
        ("What do I get for it?", "asks"),
    ],
)
def test_stance(text: str, stance: str) -> None:
    assert read_hotelier([Message("assistant", "380?"), Message("user", text)]).stance == stance


def test_nobody_has_spoken_yet() -> None:
    assert read_hotelier([Message("system", SYSTEM)]).stance == "opening"


def test_copied_share_counts_n_grams() -> None:
    words = words_of("a b c d e f g h")
    assert copied_share(words, ["a b c d x e f g h"], 4) == pytest.approx(2 / 5)
    assert copied_share(words[:4], ["a b c d"], 4) == 0.0


def test_without_context_only_the_text_is_judged() -> None:
    talk = [Message("user", "My parcel is late, where is it?")]
    good = judge_reply(talk, {}, {}, "I'm sorry about that. Could you tell me the order number?")
    bad = judge_reply(talk, {}, {}, "sorry sorry sorry sorry parcel parcel")
    assert good.scope == "text"
    assert good.rating == 4
    assert not good.excellent
    assert bad.score < good.score


def test_a_conversation_in_another_script_is_not_mixed_language() -> None:
    talk = [Message("user", "不行，这个价格太低了。")]
    verdict = judge_reply(talk, {}, {}, "我理解您的成本压力，请问可以考虑三百八十元吗？")
    assert verdict.worst() is None


@pytest.mark.parametrize(
    "context",
    [
        {"items": None},
        {"items": [None, {"ticket": "T1"}], "quotes": {"T1": "x"}, "agreed": 3},
        {"items": [{"ticket": "T1", "net_price": float("nan"), "mandate": 1e300}]},
        {"items": [KING], "stage": "unknown", "check_in": "soon", "quotes": []},
        {"items": [KING, KING]},
    ],
)
def test_odd_contexts_do_not_raise(context: dict) -> None:
    verdict = judge_reply(SCENES[1].messages, context, {"patience": "low"}, "Could you do 380?")
    assert 0 <= verdict.score <= 1


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.sampled_from(SCENES))
def test_any_text_gets_a_bounded_verdict(reply: str, scene: Scene) -> None:
    verdict = judge_reply(scene.messages, scene.context, scene.hidden, reply)
    assert 0 <= verdict.score <= 1
    assert verdict.rating in range(1, 6)
    assert verdict.excellent <= (verdict.rating == 5)


# --- independence ----------------------------------------------------------------------


def _module_file(name: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return {n for n in names if n.startswith("repo_ray")}


def _reachable(start: list[Path]) -> set[Path]:
    seen: set[Path] = set()
    todo = list(start)
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        todo += [f for n in _imports(path) if (f := _module_file(n)) is not None]
    return seen


def test_gold_reaches_no_reward_rubric_or_data_builder() -> None:
    reached = _reachable(sorted((PACKAGE / "evaluation" / "gold").glob("*.py")))
    rooms = {p.relative_to(PACKAGE).parts[0] for p in reached}
    assert rooms <= {"evaluation", "records.py", "__init__.py"}
    forbidden = ("open(", "read_text", "importlib", "resources", "yaml", "__import__")
    for path in reached:
        if "gold" in path.parts:
            assert not [w for w in forbidden if w in path.read_text()], path


def test_gold_is_code_alone() -> None:
    """No data file beside it that another room could read as well."""
    files = [p for p in (PACKAGE / "evaluation" / "gold").rglob("*") if p.is_file()]
    assert {p.suffix for p in files if "__pycache__" not in p.parts} == {".py"}


#: Rooms that make or use training data and rewards, the simulated hotelier included.
TRAINING = (
    "rewards", "negotiation", "algorithms", "models", "learner", "rollouts", "actors", "training",
    "data", "config",
)  # fmt: skip


def test_nothing_of_training_reaches_gold() -> None:
    assert (PACKAGE / "negotiation" / "hotelier").is_dir()
    for room in TRAINING:
        for path in _reachable(sorted((PACKAGE / room).rglob("*.py"))):
            assert path.relative_to(PACKAGE).parts[0] != "evaluation", (room, path)


def test_the_other_evaluators_reach_no_reward_or_data_builder() -> None:
    own = (
        "agreement",
        "bootstrap",
        "evaluate",
        "llm_evaluator",
        "measures",
        "negotiations",
        "uses",
    )
    reached = _reachable([PACKAGE / "evaluation" / f"{name}.py" for name in own])
    rooms = {p.relative_to(PACKAGE).parts[0] for p in reached}
    assert rooms <= {"evaluation", "records.py", "fencing.py", "endpoints.py", "__init__.py"}


def _functions(folder: Path) -> dict[str, str]:
    """Code of every function of at least three statements, without names and docstrings."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.FunctionDef)
                and sum(isinstance(n, ast.stmt) for n in ast.walk(node)) >= 4
            ):
                body = [
                    s
                    for s in node.body
                    if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
                ]
                code = "".join(ast.dump(s, annotate_fields=False) for s in body)
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                for name in sorted(names, key=len, reverse=True):
                    code = code.replace(f"'{name}'", "'_'")
                found[code] = f"{path.name}:{node.name}"
    return found


def test_gold_shares_no_function_with_training() -> None:
    own = _functions(PACKAGE / "evaluation" / "gold")
    assert len(own) > 40
    for room in TRAINING:
        theirs = _functions(PACKAGE / room)
        shared = [(own[code], theirs[code]) for code in own.keys() & theirs.keys()]
        assert not shared, shared


#: Numbers, months, negations, conjunctions, articles, pronouns, auxiliaries and prepositions: closed
#: classes. Whoever reads English has these, and there are no others.
CLOSED = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
    "eighty ninety hundred thousand january february march april may june july august "
    "september october november december and but or so than while whereas against versus not "
    "no never cannot unable unless without once until if "
    "a an the i me my mine we us our ours you your yours he him his she her it its they them their "
    "this that these those who whom whose which what when where why how there here "
    "am is are was were be been being do does did have has had can could will would shall should "
    "may might must of in on at by for from with to into onto out up down over under about as also "
    "i'm i'd i'll i've we're we'd we'll we've you're you'll you've it's that's let's there's "
    "don't doesn't didn't can't couldn't won't wouldn't isn't aren't".split()
)


def _words(text: str) -> frozenset[str]:
    return frozenset(w for w in re.findall(r"[a-z][a-z' -]{2,}", text.lower().replace("\\b", " ")))


def _word_lists(path: Path) -> list[frozenset[str]]:
    """Lists of words: YAML sequences, Python collections, and alternatives in one pattern."""
    lists: list[frozenset[str]] = []
    if path.suffix in (".yaml", ".yml"):
        todo = [yaml.safe_load(path.read_text())]
        while todo:
            node = todo.pop()
            if isinstance(node, dict):
                todo += node.values()
            elif isinstance(node, list):
                todo += node
                lists.append(frozenset(str(x).lower() for x in node if isinstance(x, str)))
    else:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                texts = [e.value for e in node.elts if isinstance(e, ast.Constant)]
                lists.append(frozenset(t.lower() for t in texts if isinstance(t, str)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node.value.count("|") >= 5:
                    lists.append(_words(node.value))
                elif len(node.value.split()) >= 8 and not re.search(r"[.,:;?!]", node.value):
                    lists.append(frozenset(node.value.lower().split()))
    return [words - CLOSED for words in lists if len(words - CLOSED) >= 6]


def test_gold_shares_no_word_list_with_rewards_or_data_builder() -> None:
    own = [
        (path, words)
        for path in sorted((PACKAGE / "evaluation" / "gold").glob("*.py"))
        for words in _word_lists(path)
        if path.name != "defects.py"  # ids of the data set, the one thing both sides name
    ]
    assert own
    for room in ("rewards", "negotiation"):
        for path in sorted((PACKAGE / room).rglob("*")):
            if path.suffix not in (".py", ".yaml", ".yml"):
                continue
            for theirs in _word_lists(path):
                for mine_path, mine in own:
                    shared = len(mine & theirs) / len(mine | theirs)
                    assert shared < 0.5, (mine_path, path, sorted(mine & theirs))


def test_every_defect_of_the_data_builder_has_gold_issues() -> None:
    from repo_ray.evaluation.gold.defects import GOLD_ISSUES
    from repo_ray.negotiation.defects import DEFECTS

    ids = set(DEFECTS) if isinstance(DEFECTS, dict) else {d.id for d in DEFECTS}
    assert ids <= set(GOLD_ISSUES)
    source = "".join(p.read_text() for p in (PACKAGE / "evaluation" / "gold").glob("*_checks.py"))
    source += (PACKAGE / "evaluation" / "gold" / "judge.py").read_text()
    for defect, issues in GOLD_ISSUES.items():
        for issue in issues:
            assert f'"{issue}"' in source, f"{defect}: no check yields {issue}"


def test_the_hidden_truth_overrules_what_words_seem_to_say() -> None:
    talk = [
        Message("assistant", "Could you do 380?"),
        Message("user", "Sure, deal of the century."),
    ]
    assert read_hotelier(talk).stance == "agrees"
    assert read_hotelier(talk, consents=False).stance == "other"
    assert (
        read_hotelier([*talk[:1], Message("user", "So be it.")], consents=True).stance == "agrees"
    )
