"""Dashboard and code hold together: no panel asks for a metric that nothing emits.

`tests/jobs/test_jobs_watching.py` asks a real Prometheus for the answers.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from repo_ray.training.telemetry import COUNTERS, GAUGES, HISTOGRAMS

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana" / "repo_ray.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
METRIC = re.compile(r"\bray_\w+")


def exported(kind: str, name: str) -> set[str]:
    """What Prometheus sees of a metric of Ray's."""
    parts = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return {f"ray_{name}{part}" for part in parts[kind]}


def declared_by_vllm() -> Iterator[tuple[str, str]]:
    """Kind and name of the metrics in vLLM's source; vLLM itself is not imported."""
    package = find_spec("vllm")
    if package is None or package.origin is None:
        pytest.skip("vLLM is not installed")
    source = Path(package.origin).parent / "v1" / "metrics" / "loggers.py"
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        kind = re.fullmatch("_(gauge|counter|histogram)_cls", node.func.attr)
        names = [k.value.value for k in node.keywords if k.arg == "name" and _constant(k.value)]
        if kind and names:
            yield kind[1], names[0].replace(":", "_")


def _constant(value: Any) -> bool:
    return isinstance(value, ast.Constant)


@pytest.fixture(scope="module")
def emitted() -> set[str]:
    ours = {"gauge": GAUGES, "counter": COUNTERS, "histogram": HISTOGRAMS}
    names = [(kind, name) for kind, metrics in ours.items() for name in metrics]
    names += [("gauge", name) for name in METRICS_GAUGES]
    names += declared_by_vllm()
    return set().union(*(exported(kind, name) for kind, name in names))


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_of_a_query_is_one_that_is_emitted(query: str, emitted: set[str]) -> None:
    metrics = set(METRIC.findall(query))
    assert metrics
    assert metrics <= emitted


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_the_chosen_run_or_for_nodes(query: str) -> None:
    for selector in re.findall(r"\bray_\w+(\{[^}]*\})?", query):
        assert "run='$run'" in selector or "'$run/" in selector or "ray_node_" in query


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_uses_only_tags_that_its_metric_has(query: str) -> None:
    for name, metric in {**GAUGES, **COUNTERS, **HISTOGRAMS}.items():
        for found in re.findall(rf"\bray_{name}(?:_total|_bucket)?\{{([^}}]*)\}}", query):
            used = set(re.findall(r"(\w+)!?=~?", found))
            assert used <= {"run", *metric.tags}


def test_panels_are_distinct_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own


def test_an_operators_four_questions_are_the_rows() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Is it learning?",
        "Is the sampler current?",
        "Who waits for whom?",
        "What fails?",
    ]


def test_datasource_and_run_are_variables() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "run"}
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    config = yaml.safe_load((CLUSTER / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
