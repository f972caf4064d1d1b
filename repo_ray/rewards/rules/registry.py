"""What a rule is, and the decorator that makes one."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from repo_ray.records import Prompt

#: Returns the reason why a rule applies to the reply, or None where it does not.
Check = Callable[..., str | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A pure check `(reply: str, prompt: Prompt, *, <parameters>) -> str | None` with an id."""

    rule_id: str
    check: Check

    def __call__(self, reply: str, prompt: Prompt, **parameters: Any) -> str | None:
        return self.check(reply, prompt, **parameters)

    def validate(self, parameters: Mapping[str, Any]) -> None:
        """Raises `ValueError` for a parameter that the check does not take, lacks, or whose type
        is not the annotated one."""
        known = _parameters(self.check)
        hints = typing.get_type_hints(self.check)
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(
                    f"unknown parameter {name!r}; rule {self.rule_id} takes "
                    f"{', '.join(known) or 'none'}"
                )
            try:
                TypeAdapter(hints.get(name, Any), config=ConfigDict(strict=True)).validate_python(
                    value
                )
            except ValidationError as error:
                raise ValueError(
                    f"parameter {name}: {error.errors()[0]['msg']} (found {value!r})"
                ) from None
        for name, parameter in known.items():
            if parameter.default is inspect.Parameter.empty and name not in parameters:
                raise ValueError(f"parameter {name} is missing")


def rule(rule_id: str) -> Callable[[Check], Rule]:
    """Makes a function a rule. Files that declare rules need nothing but this."""

    def register(check: Check) -> Rule:
        return Rule(rule_id, check)

    return register


def rules_in(namespace: Mapping[str, Any]) -> dict[str, Rule]:
    """The rules of a module's namespace by id. Raises `ValueError` for an id used twice."""
    found: dict[str, Rule] = {}
    for value in namespace.values():
        if isinstance(value, Rule) and found.setdefault(value.rule_id, value) is not value:
            raise ValueError(f"rule id {value.rule_id!r} is used by two functions")
    return found


def _parameters(check: Check) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(check).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
