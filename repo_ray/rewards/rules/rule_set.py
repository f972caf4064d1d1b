"""A set of rules with points, as declared in YAML."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from repo_ray.records import Prompt, Score, ScoreDetail, storable
from repo_ray.rewards.declaration import RewardConfigError, read_declaration
from repo_ray.rewards.rules import dialogue, prices, style
from repo_ray.rewards.rules.registry import Rule, rules_in

BUILT_IN = Path(__file__).with_name("negotiation.yaml")


@dataclass(frozen=True, slots=True)
class PointedRule:
    """A rule, what it is worth and its parameters."""

    rule: Rule
    points: float
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one run. `digest` identifies the file and every rule file it names."""

    rules: tuple[PointedRule, ...]
    digest: str = ""

    def score(
        self, prompt: Prompt, reply: str, progress: Callable[[str], None] = lambda rule_id: None
    ) -> Score:
        """E_func of one reply: the points of every rule that applies, summed.

        The sum is not clipped here: `enhancement.enhance` clips judge and rules together.
        `detail` holds the rules that apply, with reasons made `storable`. `progress` is told each rule's id before it runs.
        A rule that raises (error `raised:` or `memory:`), exits (`exited:`) or returns anything
        but a reason or None (`bad_result:`) makes the score invalid and is named.
        """
        start = monotonic()
        detail: dict[str, ScoreDetail] = {}
        for pointed in self.rules:
            name = pointed.rule.rule_id
            progress(name)
            try:
                reason = pointed.rule(reply, prompt, **pointed.parameters)
            except MemoryError:
                error = f"memory: rule {name} ran out of memory"
            except SystemExit:
                error = f"exited: rule {name} called exit"
            except Exception as raised:  # user code: any fault is this rule's, not the run's
                error = storable(f"raised: rule {name}: {type(raised).__name__}: {raised}")
            else:
                if reason is None:
                    continue
                if isinstance(reason, str) and reason:
                    detail[name] = ScoreDetail(pointed.points, storable(reason))
                    continue
                error = f"bad_result: rule {name} returned {type(reason).__name__}, expected a reason or None"
            return Score.invalid("rules", error, monotonic() - start)
        value = float(sum(d.points for d in detail.values()))
        return Score("rules", value, detail, monotonic() - start)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: Annotated[str, Field(min_length=1)]
    points: Annotated[float, Field(allow_inf_nan=False)]
    params: dict[str, Any] = {}
    file: str | None = None


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    rules: Annotated[list[_Entry], Field(min_length=1)]


def load_rules(path: Path | None = None) -> RuleSet:
    """Reads a rule file; None: the built-in negotiation rules.

    An entry with `file` takes its rule from that Python file (relative to the YAML), which runs
    on loading. Raises `RewardConfigError` naming file and key: unknown or duplicate rule, points
    that are no number, unknown, missing or mistyped parameter, a rule file that does not load.
    """
    path = path or BUILT_IN
    declaration = read_declaration(path, _Declaration)
    built_in = rules_in({**vars(prices), **vars(dialogue), **vars(style)})
    digest = hashlib.sha256(path.read_bytes())
    files: dict[str, dict[str, Rule]] = {}
    pointed: dict[str, PointedRule] = {}
    for index, entry in enumerate(declaration.rules):
        key = f"{path}: rules[{index}]"
        if entry.id in pointed:
            raise RewardConfigError(f"{key}.id: rule {entry.id!r} is declared twice")
        if entry.file is None:
            available, where = built_in, "the built-in rules"
        else:
            where = entry.file
            if entry.file not in files:
                source = path.parent / entry.file
                files[entry.file] = _load_file(source, f"{key}.file")
                digest.update(source.read_bytes())
            available = files[entry.file]
        if entry.id not in available:
            raise RewardConfigError(
                f"{key}.id: unknown rule {entry.id!r}; {where} has {', '.join(sorted(available)) or 'none'}"
            )
        try:
            available[entry.id].validate(entry.params)
        except ValueError as error:
            raise RewardConfigError(f"{key}.params: {error}") from None
        pointed[entry.id] = PointedRule(available[entry.id], entry.points, entry.params)
    return RuleSet(tuple(pointed.values()), digest.hexdigest())


def _load_file(source: Path, key: str) -> dict[str, Rule]:
    spec = importlib.util.spec_from_file_location(f"repo_ray_user_rules_{source.stem}", source)
    if spec is None or spec.loader is None or not source.is_file():
        raise RewardConfigError(f"{key}: {source} is not a Python file that can be read")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return rules_in(vars(module))
    except (Exception, SystemExit) as error:  # user code
        raise RewardConfigError(f"{key}: {source}: {type(error).__name__}: {error}") from None
