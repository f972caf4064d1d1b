"""Log lines say which run they belong to, whose they are and at which step."""

from __future__ import annotations

import logging
from io import StringIO

import pytest

from repo_ray import logs


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> logs.Context:
    context = logs.Context()
    monkeypatch.setattr(logs, "CONTEXT", context)
    return context


def test_a_line_of_any_module_carries_run_role_and_step(context: logs.Context) -> None:
    stream = StringIO()
    handler = logs.in_context(logging.StreamHandler(stream))
    package = logging.getLogger("repo_ray_test")
    package.handlers, package.propagate = [handler], False
    below = logging.getLogger("repo_ray_test.actors.pool")
    below.warning("before")
    context.run, context.role, context.step = "exp-3", "judge-1", 7
    below.warning("after 100%%, %s", "said")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("WARNING - - step - repo_ray_test.actors.pool: before")
    assert second.endswith(
        "WARNING exp-3 judge-1 step 7 repo_ray_test.actors.pool: after 100%, said"
    )
