"""What Prometheus gets: from the controller's status to Ray's gauges."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

import pytest

from repo_ray.actors.load import PoolStats
from repo_ray.records import Score
from repo_ray.training import telemetry
from repo_ray.training.accounting import Ledger
from repo_ray.training.clock import PhaseClock
from repo_ray.training.telemetry import COLUMNS, GAUGES, Telemetry, gauges

STATS = PoolStats(
    kind="judge",
    wanted=3,
    ready=2,
    starting=1,
    queue=7,
    in_flight=8,
    calls=90,
    requeued=1,
    timeouts=4,
    restarts=2,
    queue_s=1.5,
    busy_share=0.25,
    max_queue=64,
    longest_queue=9,
    longest_wait_s=2.5,
    busy_s=30.0,
    able_s=90.0,
)


def status(**changes: Any) -> dict[str, Any]:
    ledger = Ledger(issued=32, consumed=16, samples=40, scores=120)
    ledger.dropped["judge: timeout"] = 2
    ledger.count_score(Score.invalid("judge", "http 429: slow down: please"))
    return {
        "step": 2,
        "steps": 8,
        "step_age_s": 12.5,
        "phases": {"collect": 30.0, "update": 10.0},
        "skipped_in_a_row": 0,
        "versions": {"learner": 2, "rollout-0": 1},
        "ledger": ledger.state(),
        "pools": {"judge": asdict(STATS)},
        "metrics": dict.fromkeys(COLUMNS, 0.5) | {"seconds": 22.0},
        **changes,
    }


def test_a_status_gives_every_gauge_of_the_table_and_no_other() -> None:
    assert {name for name, _, _ in gauges(status())} == set(GAUGES)


def test_every_value_has_the_tags_of_the_table() -> None:
    for name, tags, _ in gauges(status()):
        assert tuple(tags) == GAUGES[name].tags


def test_values_are_those_of_the_status() -> None:
    values = {(name, *tags.values()): value for name, tags, value in gauges(status())}
    assert values["repo_ray_step",] == 2
    assert values["repo_ray_adapter_version", "rollout-0"] == 1
    assert values["repo_ray_prompts_dropped", "judge: timeout"] == 2
    assert values["repo_ray_scores_invalid", "judge", "http 429"] == 1
    assert values["repo_ray_scores",] == 121
    assert values["repo_ray_pool_queue_seconds", "judge"] == 1.5
    assert values["repo_ray_pool_busy_share", "judge"] == 0.25
    assert values["repo_ray_pool_restarts", "judge"] == 2


class Recorder:
    """Ray's metric of any kind; remembers what it was told, by name."""

    told: ClassVar[dict[str, list[tuple[float, dict[str, str]]]]] = {}

    def __init__(self, name: str, description: str, *arguments: Any) -> None:
        self.name, self.tag_keys = name, arguments[-1]

    def record(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.told.setdefault(self.name, []).append((value, tags))

    set = inc = observe = record


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, dict[str, str]]]]:
    Recorder.told = {}
    for kind in ("Gauge", "Counter", "Histogram"):
        monkeypatch.setattr(telemetry.ray_metrics, kind, Recorder)
    return Recorder.told


def test_gauges_are_set_again_at_every_report_for_ray_forgets_them(told: Any) -> None:
    reporter = Telemetry("r")
    reporter.report(status())
    reporter.report(status())
    assert told["repo_ray_reward_total"] == [(0.5, {"run": "r"})] * 2


def test_the_phase_counter_grows_by_what_is_new(told: Any) -> None:
    reporter = Telemetry("r")
    for phases in ({"collect": 3.0}, {"collect": 3.0}, {"collect": 4.5, "update": 2.0}):
        reporter.report(status(phases=phases))
    assert told["repo_ray_phase_seconds"] == [
        (3.0, {"run": "r", "phase": "collect"}),
        (1.5, {"run": "r", "phase": "collect"}),
        (2.0, {"run": "r", "phase": "update"}),
    ]


def test_a_scores_latency_is_told_by_source(told: Any) -> None:
    Telemetry("r").score(Score("judge", 1.0, latency_s=0.25))
    assert told["repo_ray_score_latency_seconds"] == [(0.25, {"run": "r", "source": "judge"})]


def test_the_clock_gives_every_second_to_one_phase() -> None:
    now = 100.0
    clock = PhaseClock(lambda: now)
    now = 103.0
    clock.enter("update")
    now = 110.0
    clock.enter("collect")
    now = 111.0
    assert clock.phase == "collect"
    assert clock.seconds() == {"collect": 4.0, "update": 7.0}
