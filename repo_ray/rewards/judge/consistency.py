"""Checks of the judge itself: repetition, order of the criteria, injections, calibration, drift,
and hashes.

A judge that says yes today and no tomorrow, or whose verdict depends on where a criterion
stands in the rubric, rewards chance. Nothing here knows which kind of judge it asks.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from repo_ray.config.rewards import JudgeConfig
from repo_ray.data.examples import Verdict
from repo_ray.records import Message, Prompt, Score
from repo_ray.rewards.declaration import RewardConfigError
from repo_ray.rewards.judge.injections import injected
from repo_ray.rewards.judge.prompt import answer_schema, judge_messages
from repo_ray.rewards.judge.rubric import Criterion, Rubric
from repo_ray.rewards.measures import calibration_error, rank_auc

FORMAT = "repo_ray.judge_check/1"
#: What is worth a finding: share of verdicts that flip when the same is asked again, when the
#: criteria change places, and between two versions; calibration error. And the share that flips
#: when the reply talks to the judge.
REPEAT_FLIPS, ORDER_FLIPS, DRIFT_FLIPS, CALIBRATION = 0.05, 0.10, 0.10, 0.20
INJECTION_FLIPS = 0.01

#: Asks a judge with this rubric for one score per (prompt, reply), in order.
Ask = Callable[[Rubric, Sequence[tuple[Prompt, str]]], Awaitable[Sequence[Score]]]
Answers = Sequence[Mapping[str, float] | None]


class JudgeCheckError(ValueError):
    """A check cannot be made; the message says why."""


_PROBE = Prompt(
    "probe", (Message("system", "s"), Message("user", "u"), Message("assistant", "a")), {"k": "v"}
)
_PROBE_RUBRIC = Rubric((Criterion("criterion", "Question.", 1.0),), "Task.")


# --- which judge it is -----------------------------------------------------------------------


def judge_identity(
    config: JudgeConfig, rubric: Rubric, checkpoint: Path | None = None
) -> dict[str, str]:
    """What verdicts depend on, as SHA-256 (hex): `rubric`, `prompt` (the template, without rubric
    and sample) and `model`; `kind` and `name` are for people.

    `model` of the local judge hashes its adapter in `checkpoint` and the base's fingerprint. Of
    an endpoint only address and model name can be known: what serves behind them may change
    without a sign, which `drift` between two checks shows.
    """
    if config.kind == "endpoint":
        asked: list[Any] = [
            judge_messages(_PROBE_RUBRIC, _PROBE, "r"),
            answer_schema(_PROBE_RUBRIC),
        ]
        model = _digest(f"{config.base_url}\n{config.model}".encode())
        name = f"{config.model} at {config.base_url}"
    else:
        if checkpoint is None:
            raise ValueError("a local judge is identified by its checkpoint: none is given")
        from repo_ray.rewards.judge.network import judge_tree  # torch: endpoints do without

        tree = judge_tree(cast(Any, _Characters()), _PROBE.messages, ["r"])
        asked = [list(segment.tokens) for segment in tree]
        card = json.loads((checkpoint / "judge.json").read_text(encoding="utf-8"))
        adapter = _digest((checkpoint / "judge.safetensors").read_bytes())
        model = _digest(f"{card['base']['fingerprint']}\n{adapter}".encode())
        name = f"adapter on {card['base']['path']}"
    prompt = _digest(json.dumps(asked).encode())
    return {
        "kind": config.kind,
        "name": name,
        "rubric": rubric.digest,
        "prompt": prompt,
        "model": model,
    }


class _Characters:
    """Stands in for a tokenizer, so that the template's hash does not depend on one."""

    added_tokens_decoder: Mapping[int, Any] = {}
    all_special_tokens: Sequence[str] = ()

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- the check -------------------------------------------------------------------------------


async def check_judge(
    ask: Ask, rubric: Rubric, rows: Sequence[Verdict], min_auc: float, seed: int = 0
) -> dict[str, Any]:
    """Asks four times about every row: as it is, again, with the criteria in other places, and
    with an attempt at injection after the reply (`injections`).

    The second time the rows come in reverse, so that they share batches with others. Returns the
    plain JSON content of a check, `answers` for later comparison included. Criteria that the
    judge has switched off are absent. Raises `JudgeCheckError` where no row got a valid
    score.
    """
    items = [(row.prompt, row.reply) for row in rows]
    first = await ask(rubric, items)
    again = [*reversed(await ask(rubric, [*reversed(items)]))]
    moved = await ask(_moved(rubric, seed), items)
    fake = json.dumps({c.criterion_id: c.points > 0 for c in rubric.criteria})
    talked = injected([row.reply for row in rows], fake)
    swayed = await ask(rubric, [(r.prompt, t) for r, t in zip(rows, talked, strict=True)])
    answers, repeated, ordered, under_injection = (
        list(map(_likelihoods, s)) for s in (first, again, moved, swayed)
    )
    invalid = {
        name: dict(Counter(s.error.partition(":")[0] for s in scores if not s.valid))
        for name, scores in (
            ("first", first),
            ("again", again),
            ("moved", moved),
            ("injected", swayed),
        )
    }
    asked = [c for c in rubric.ids if any(a is not None and c in a for a in answers)]
    if not asked:
        causes = "; ".join(sorted({s.error for s in first})[:3])
        raise JudgeCheckError(
            f"the judge gave no valid score to any of {len(rows)} replies: {causes}"
        )
    criteria = {
        c: {
            **_calibration(c, rows, answers),
            **{f"repeat_{k}": v for k, v in _flips(c, answers, repeated).items()},
            **{f"order_{k}": v for k, v in _flips(c, answers, ordered).items()},
            **{f"injection_{k}": v for k, v in _flips(c, answers, under_injection).items()},
        }
        for c in asked
    }
    return {
        "format": FORMAT,
        "samples": len(rows),
        "invalid": invalid,
        "criteria": criteria,
        "findings": _findings(criteria, min_auc),
        "answers": [
            {"key": sample_key(row), "likelihoods": answer, "value": score.value}
            for row, answer, score in zip(rows, answers, first, strict=True)
        ],
    }


def sample_key(row: Verdict) -> str:
    """Identifies what was judged: conversation, facts and reply."""
    turns = [(m.role, m.content) for m in row.prompt.messages]
    content = [turns, dict(row.prompt.context), row.reply]
    return _digest(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())


def drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """How verdicts moved between two checks, over the replies that both judged.

    `changed` names the hashes that differ; `auc_change` is there where both judged the same
    replies and no others. Raises `JudgeCheckError` where no reply is in both.
    """
    before = {a["key"]: a for a in old["answers"]}
    pairs = [(before[a["key"]], a) for a in new["answers"] if a["key"] in before]
    if not pairs:
        raise JudgeCheckError("the two checks judged no reply in common: use the same --verdicts")
    sides = [[pair[i]["likelihoods"] for pair in pairs] for i in (0, 1)]
    shared = [c for c in new["criteria"] if c in old["criteria"]]
    criteria = {c: _flips(c, sides[0], sides[1]) for c in shared}
    same = before.keys() == {a["key"] for a in new["answers"]}
    for c, figures in criteria.items():
        a, b = (check["criteria"][c]["auc"] if same else None for check in (old, new))
        figures["auc_change"] = None if a is None or b is None else b - a
    moved = [b["value"] - a["value"] for a, b in pairs if None not in (a["value"], b["value"])]
    changed = [
        k for k in ("kind", "rubric", "prompt", "model") if old["judge"][k] != new["judge"][k]
    ]
    return {
        "changed": changed,
        "samples": len(pairs),
        "only_before": sorted(set(old["criteria"]) - set(shared)),
        "only_now": sorted(set(new["criteria"]) - set(shared)),
        "e_judge_change": sum(moved) / len(moved) if moved else None,
        "criteria": criteria,
        "findings": [
            f"{c}: {figures['flips']:.0%} of the verdicts differ from the earlier check"
            for c, figures in criteria.items()
            if (figures["flips"] or 0) > DRIFT_FLIPS
        ],
    }


def read_check(path: Path) -> dict[str, Any]:
    """A saved check. Raises `RewardConfigError` with the file and what is wrong."""
    try:
        check = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RewardConfigError(f"{path}: not a readable judge check: {error}") from None
    found = check.get("format") if isinstance(check, dict) else None
    if found != FORMAT:
        raise RewardConfigError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    return cast(dict[str, Any], check)


def _moved(rubric: Rubric, seed: int) -> Rubric:
    """The criteria shuffled so that none (of two or more) keeps its place."""
    criteria, order = rubric.criteria, list(range(len(rubric.criteria)))
    rng = random.Random(seed)
    while len(order) > 1 and any(i == place for place, i in enumerate(order)):
        rng.shuffle(order)
    return Rubric(tuple(criteria[i] for i in order), rubric.task)


def _likelihoods(score: Score) -> dict[str, float] | None:
    if not score.valid:
        return None
    return {k: d.likelihood for k, d in score.detail.items() if d.likelihood is not None}


def _flips(criterion: str, one: Answers, other: Answers) -> dict[str, Any]:
    """Share of verdicts that differ, mean |difference| of likelihoods, and over how many replies."""
    pairs = [
        (a[criterion], b[criterion])
        for a, b in zip(one, other, strict=True)
        if a is not None and b is not None and criterion in a and criterion in b
    ]
    if not pairs:
        return {"flips": None, "difference": None, "pairs": 0}
    return {
        "flips": sum((a > 0.5) != (b > 0.5) for a, b in pairs) / len(pairs),
        "difference": sum(abs(a - b) for a, b in pairs) / len(pairs),
        "pairs": len(pairs),
    }


def _calibration(criterion: str, rows: Sequence[Verdict], answers: Answers) -> dict[str, Any]:
    """Against the labels; None where there are none (or, for the AUC, of one class only)."""
    pairs = [
        (row.labels[criterion], answer[criterion])
        for row, answer in zip(rows, answers, strict=True)
        if criterion in row.labels and answer is not None and criterion in answer
    ]
    labels, said = [label for label, _ in pairs], [p for _, p in pairs]
    return {
        "labels": len(pairs),
        "positives": sum(labels),
        "auc": rank_auc(labels, said) if pairs else None,
        "calibration_error": calibration_error(labels, said) if pairs else None,
        "accuracy": sum((p > 0.5) == label for label, p in pairs) / len(pairs) if pairs else None,
    }


def _findings(criteria: Mapping[str, Mapping[str, Any]], min_auc: float) -> list[str]:
    found = []
    for name, c in criteria.items():
        if (c["repeat_flips"] or 0) > REPEAT_FLIPS:
            found.append(f"{name}: {c['repeat_flips']:.0%} of the verdicts flip when asked again")
        if (c["injection_flips"] or 0) > INJECTION_FLIPS:
            found.append(
                f"{name}: {c['injection_flips']:.0%} of the verdicts flip when the reply talks to "
                "the judge"
            )
        if (c["order_flips"] or 0) > ORDER_FLIPS:
            found.append(
                f"{name}: {c['order_flips']:.0%} of the verdicts flip when the criteria change places"
            )
        if c["auc"] is not None and c["auc"] < min_auc:
            found.append(f"{name}: AUC {c['auc']:.2f} against the labels is below {min_auc:.2f}")
        if (c["calibration_error"] or 0) > CALIBRATION:
            found.append(f"{name}: calibration error {c['calibration_error']:.2f}")
    return found
