"""Evaluation rows, charts and the page."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import report_data, rows

from repo_ray.evaluation.charts import Series, line_chart, running_mean, ticks
from repo_ray.evaluation.evaluate import (
    GeneratedReply,
    evaluate_rows,
    gold_curve,
    load_evaluation,
    save_evaluation,
)
from repo_ray.evaluation.measures import compute_measures
from repo_ray.evaluation.report import ReportData, render, write_report
from repo_ray.evaluation.report_view import clock
from repo_ray.records import Score, ScoreDetail

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7*7 }}</blockquote>'


def test_measures_are_recomputable_from_the_file(tmp_path: Path) -> None:
    columns = report_data().columns
    save_evaluation(tmp_path, "repo", columns["repo"])
    loaded = load_evaluation(tmp_path, "repo")
    assert loaded == [dict(r) for r in columns["repo"]]
    assert compute_measures(loaded) == compute_measures(columns["repo"])


def test_rows_without_context_are_judged_on_text() -> None:
    given = {**rows(1, None)[0], "context": None, "hidden": None}
    (row,) = evaluate_rows([given], [GeneratedReply("Thank you.", "stop", 3)], "online")
    assert row["scope"] == "text"
    assert row["scores"] is None
    assert row["fluency"] is True
    assert [row[k] for k in ("gold_score", "rating", "excellent", "workflow_compliance")] == 4 * [
        None
    ]


def test_a_broken_context_names_its_row() -> None:
    given = {**rows(1, None)[0], "context": "[1]"}
    with pytest.raises(ValueError, match=r"online, dialogue d00, turn 0, context: .* object"):
        evaluate_rows([given], [GeneratedReply("Hi.", "stop", 3)], "online")
    with pytest.raises(ValueError, match="1 rows but 0 replies"):
        evaluate_rows([given], [], "online")


def test_scores_and_reasons_are_kept() -> None:
    score = Score("rules", -5.0, {"x": ScoreDetail(-5.0, "why")})
    reply = GeneratedReply("Hello there, could you help?", "stop", 3, (score,))
    (row,) = evaluate_rows(rows(1, None)[:1], [reply], "online")
    assert json.loads(row["scores"])["rules"]["detail"]["x"]["reason"] == "why"


def test_gold_curve_counts_steps_as_the_metrics_do() -> None:
    given = rows(2, None)
    trajectories = [{**r, "step": i // 3, "reply": "Thank you."} for i, r in enumerate(given)]
    hidden = {r["prompt_id"]: r["hidden"] for r in given}
    curve = gold_curve(trajectories, hidden)
    assert [c["step"] for c in curve] == [1, 2]
    assert all(0 <= c["gold_score"] <= 1 for c in curve)


# --- charts ----------------------------------------------------------------------------


def test_ticks_span_the_data_with_round_numbers() -> None:
    assert ticks(0.03, 0.97, 4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(-3, 12, 4) == [-5.0, 0.0, 5.0, 10.0, 15.0]
    assert ticks(2, 2, 4)[0] < 2 < ticks(2, 2, 4)[-1]


def test_running_mean_keeps_a_line_and_its_ends() -> None:
    line = [(float(i), 2.0 * i) for i in range(30)]
    assert [y for _, y in running_mean(line)] == pytest.approx([y for _, y in line])
    assert running_mean(line[:3]) == line[:3]


def test_a_chart_survives_what_runs_produce() -> None:
    points = [(1.0, float("nan")), (2.0, 1.0), (3.0, float("inf")), (4.0, 1.0)]
    chart = line_chart([Series("a", points)], 'x" onload="alert(1)')
    assert "nan" not in chart
    assert "inf" not in chart
    assert 'onload="' not in chart
    assert "no data" in line_chart([Series("a", [])], "empty")
    assert "<circle" in line_chart([Series("a", [(1.0, 5.0)])], "one step")


def test_a_chart_of_sizes_has_dots_y_from_zero_and_equal_doublings() -> None:
    points = [(8.0, 10.0), (32.0, 11.0), (128.0, 12.0)]
    chart = line_chart([Series("a", points)], "sizes", sizes=True, log_x=True)
    xs = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', chart)]
    assert len(xs) == 3
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    ticks_drawn = re.findall(r">(\d+)</text>", chart)
    assert ticks_drawn[0] == "0"
    assert ticks_drawn[-3:] == ["8", "32", "128"]


# --- page ------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in ("meta", "line", "circle", "polyline", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report_data())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    assert not {"script", "img", "iframe", "object", "link", "form"} & set(page.tags)
    assert not re.search(r"https?:|//\w|@import|url\(", html)
    assert not [a for a, _ in page.attributes if a.startswith("on") or a in ("src", "srcset")]
    assert {v for a, v in page.attributes if a == "href"} == {
        "#measures",
        "#hacking",
        "#curves",
        "#replies",
        "#run",
    }


def test_hostile_replies_stay_text() -> None:
    data = report_data(hostile=HOSTILE)
    only = {t: [r for r in c if r["reply"] == HOSTILE] for t, c in data.columns.items()}
    html = render(dataclasses.replace(data, columns=only))
    page = Page(html)
    assert HOSTILE in page.text
    assert not {"script", "img"} & set(page.tags)


def test_the_page_has_the_numbers() -> None:
    data = report_data()
    text = " ".join(Page(render(data)).text.split())
    value = compute_measures(data.columns["repo"], data.resamples)["dialogue_rating"].value
    assert "It learned" in text
    assert f"{value:.2f}" in text
    assert "16 prompts per step instead of 128" in text
    assert "640 issued = 639 consumed + 1 dropped" in text
    assert "judge: timeout" in text
    assert "5 min 20 s" in text
    assert f"{40:064x}"[:12] in text


def test_a_gain_of_reward_alone_is_called_out() -> None:
    data = report_data()
    base = data.columns["base"]
    richer = [{**r, "reward": r["reward"] + 2.0} for r in base]
    text = Page(render(dataclasses.replace(data, columns={"a": base, "b": richer}))).text
    assert "No change shown" in text
    assert "The reward rose, the gold score did not" in text


def test_getting_worse_is_said() -> None:
    data = report_data()
    columns = {"warm_start": data.columns["repo"], "repo": data.columns["base"]}
    assert "It got worse" in Page(render(dataclasses.replace(data, columns=columns))).text


def test_failures_show_in_the_checks() -> None:
    data = report_data()
    metrics = [dict(m) for m in data.metrics]
    metrics[3] = {**metrics[3], "skipped": "non-finite loss"}
    for row in metrics:
        row["value_diverged"] = float(row["step"] > 37)
        row["steps_skipped"] = 0.0
    metrics[4]["publication"] = [{**metrics[4]["publication"][0], "max_difference": 0.5}]
    ledger = {**data.summary["ledger"], "consumed": 1}
    summary = {**data.summary, "ledger": ledger}
    text = Page(render(dataclasses.replace(data, metrics=metrics, summary=summary))).text
    assert "Updates were skipped" in text
    assert "The value network diverged" in text
    assert "at 3 of 40 steps" in text
    assert "Optimizer steps were skipped" not in text
    assert "A push differed when read back" in text
    assert "Prompts are missing from the accounts" in text


def test_an_empty_run_still_gives_a_page() -> None:
    text = Page(render(ReportData({}, [], {}))).text
    assert "No comparison was made" in text
    assert "No replies were evaluated" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.24, "8.2 s"), (185, "3 min 05 s"), (3725, "1 h 02 min")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
