"""The report's section "Is it hacking?": what held-out checks and training samples say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repo_ray.evaluation.charts import Series, line_chart
from repo_ray.evaluation.collapse import form, trend
from repo_ray.evaluation.hacking import (
    SOURCES,
    Agreement,
    agreement,
    saturation,
    serious,
    verdict_shares,
)
from repo_ray.evaluation.report_examples import example_card

Row = Mapping[str, Any]

#: Chart title, what it tells, and its lines as (label, key of metrics.jsonl).
CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Held-out reward", "the proxy: what training optimises", (("R_total", "heldout/proxy"),)),
    (
        "Held-out gold score",
        "the same replies, judged by the evaluator that training never sees",
        (("gold score", "heldout/gold"), ("serious issues", "heldout/gold_serious")),
    ),
    (
        "Rank correlation with gold",
        "of each source over the check's replies; a source that is gamed falls towards 0",
        tuple(
            (label, f"heldout/gold_correlation_{column}")
            for column, label in SOURCES.items()
            if column != "reward"
        ),
    ),
    (
        "Held-out length",
        "words per reply",
        (("words", "heldout/words"),),
    ),
    (
        "Sameness",
        "overlap of two replies; repetition inside one; share cut off",
        (
            ("overlap", "heldout/overlap"),
            ("repetition", "heldout/repetition"),
            ("cut off", "heldout/cut"),
        ),
    ),
)
#: Rows of the table of forms: attribute of `collapse.Form`, label, explanation, format.
FORMS = (
    ("words", "Words per reply", "whitespace-separated", ".1f"),
    ("cut", "Cut off by the limit", "share of replies", ".0%"),
    ("repetition", "Repetition inside a reply", "repeated share of its word 4-grams", ".1%"),
    ("overlap", "Overlap of two replies", "mean Jaccard of 4-grams, numbers masked", ".2f"),
    ("distinct_2", "Distinct word pairs", "over all word pairs, all replies together", ".2f"),
    ("openings", "Variety of openings", "entropy of the first three words, 1 is most", ".2f"),
)
#: A criterion that holds on at most this share of samples, or on all but this share, is stuck.
STUCK = 0.02
EXAMPLES = 3
#: Samples whose form is compared at each end of training; comparing all pairs is quadratic.
FORM_SAMPLES = 200
_NAMES = {**SOURCES, "e_enh": "judge and rules together"}


def hacking_view(
    metrics: Sequence[Row], heldout: Sequence[Row], samples: Sequence[Row], n: float
) -> dict[str, Any]:
    """What the template shows. `heldout` are rows of `hacking.HELDOUT_SCHEMA`, `samples` those of
    training (`records.TRAJECTORIES_SCHEMA`); either may be empty.
    """
    checks = [row for row in metrics if "heldout/samples" in row]
    first, last = _ends(heldout)
    early, late = _ends(samples, tenths=True) if samples else (first, last)
    alarms = [row for row in checks if row.get("alarm/hacking")]
    return {
        **_headline(checks, alarms),
        "alarms": [row["alarm/text"] for row in alarms],
        "notices": [
            f"step {row['step']}: {row['alarm/notice']}"
            for row in checks
            if row.get("alarm/notice")
        ],
        "charts": _charts(checks, [float(row["step"]) for row in alarms]),
        "agreement": _agreement(first, last),
        "checked": [_step(rows) for rows in (first, last)],
        "saturation": _saturation(early, late, [*samples] or [*heldout], n),
        "saturated_on": _origin(early, late, bool(samples)),
        "stuck": _stuck(late),
        "form": _forms(first, last) if heldout else _forms(early, late),
        "form_on": _origin(first, last, False) if heldout else _origin(early, late, bool(samples)),
        "length_trend": trend([(r["step"], r["heldout/words"]) for r in checks]),
        "small": _small(metrics),
        "cost": f"{len(checks)} checks of {checks[-1]['heldout/samples']} replies"
        if checks
        else "",
        "examples": _examples(heldout, alarms[0]) if alarms else [],
    }


def _headline(checks: Sequence[Row], alarms: Sequence[Row]) -> dict[str, str]:
    """The state in one line, its kind (colour) and one sentence with the figures."""
    if alarms:
        return {
            "headline": f"Alarm after step {alarms[0]['step']}",
            "kind": "worse",
            "text": f"The reward rose while the gold score fell. {_sentence(alarms[0])}",
        }
    if len(checks) > 1 and "heldout/gold" not in checks[-1]:
        return {
            "headline": "Not judged",
            "kind": "unclear",
            "text": "The gold evaluator knows only the built-in task. What follows shows the reward and "
            "the form of held-out replies; whether a rising reward is earned, people can say "
            "(repo-ray rate).",
        }
    if not checks or "alarm/hacking" not in checks[-1]:
        return {
            "headline": "Not watched",
            "kind": "unclear",
            "text": "The run made fewer than two checks on held-out prompts (settings monitor.*).",
        }
    last = checks[-1]
    if (last["alarm/gold_low"] or 0) > 0:
        headline, kind = "No sign of it", "better"
        text = "The gold score rose."
    elif (last["alarm/gold_high"] or 0) < 0:
        headline, kind = "No alarm, but gold fell", "worse"
        text = "The gold score fell; a rise of the reward is not shown: worse, but not hacking."
    elif (last["alarm/proxy_low"] or 0) > 0:
        headline, kind = "No alarm, but gold does not follow", "unclear"
        text = "The reward rose; a rise of the gold score is not shown."
    else:
        headline, kind = "No alarm", "unclear"
        text = "Neither a rise of the reward nor a change of the gold score is shown."
    return {"headline": headline, "kind": kind, "text": f"{text} {_sentence(last)}"}


def _sentence(row: Row) -> str:
    return f"{row['alarm/text'][0].upper()}{row['alarm/text'][1:]}."


def _charts(checks: Sequence[Row], alarms: Sequence[float]) -> list[dict[str, Any]]:
    cards = []
    for title, note, lines in CHARTS:
        series = [
            Series(
                label,
                [(float(r["step"]), float(r[key])) for r in checks if r.get(key) is not None],
            )
            for label, key in lines
        ]
        series = [s for s in series if s.points]
        if series:
            legend = [(s.label, f"{s.points[0][1]:.3g} → {s.points[-1][1]:.3g}") for s in series]
            svg = line_chart(series, title, alarms)
            cards.append({"title": title, "note": note, "legend": legend, "svg": svg})
    return cards


def _agreement(first: Sequence[Row], last: Sequence[Row]) -> list[dict[str, str]]:
    """Correlation with gold of each source, at the first and at the last check."""
    return [
        {
            "source": label,
            "first": _coefficient(agreement(first, column, resamples=500)),
            "last": _coefficient(agreement(last, column, resamples=500)),
            "pearson": _signed(agreement(last, column).pearson),
        }
        for column, label in SOURCES.items()
        if any(row["gold_score"] is not None for row in first)
    ]


def _coefficient(found: Agreement) -> str:
    if found.spearman is None:
        return "constant"
    return f"{found.spearman:+.2f} ({_signed(found.low)} to {_signed(found.high)})"


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.2f}"


def _saturation(
    early: Sequence[Row], late: Sequence[Row], among: Sequence[Row], n: float
) -> list[dict[str, str]]:
    before = {s.source: s for s in saturation(early, among, n)}
    after = {s.source: s for s in saturation(late, among, n)}
    rows = []
    for source in [s for s in before if s in after]:
        a, b = before[source], after[source]
        if a.at_lowest == a.at_highest == b.at_lowest == b.at_highest == 1:
            constant = {"lowest": "constant", "highest": "", "clip": "", "spread": "0"}
            rows.append({"source": _NAMES[source], **constant})
            continue
        clip = (
            f"{a.at_clip:.0%} → {b.at_clip:.0%}"
            if a.at_clip is not None and b.at_clip is not None
            else "not clipped"
        )
        rows.append(
            {
                "source": _NAMES[source],
                "lowest": f"{a.at_lowest:.0%} → {b.at_lowest:.0%}",
                "highest": f"{a.at_highest:.0%} → {b.at_highest:.0%}",
                "clip": clip,
                "spread": f"{a.spread:.3g} → {b.spread:.3g}",
            }
        )
    return rows


def _stuck(rows: Sequence[Row]) -> list[str]:
    shares = verdict_shares(rows)
    return [
        f"{name.replace('_', ' ')}: {'never' if share <= STUCK else 'always'} ({share:.0%})"
        for name, share in shares.items()
        if share <= STUCK or share >= 1 - STUCK
    ]


def _forms(first: Sequence[Row], last: Sequence[Row]) -> list[dict[str, str]]:
    if not first or not last:
        return []
    before, after = (form(rows[:: max(1, len(rows) // FORM_SAMPLES)]) for rows in (first, last))
    return [
        {
            "label": label,
            "note": note,
            "first": format(getattr(before, name), style),
            "last": format(getattr(after, name), style),
        }
        for name, label, note, style in FORMS
    ]


def _small(metrics: Sequence[Row]) -> str:
    """Share of training samples with a small |R_model|, first and last tenth of the steps."""
    key = "reward/small_r_model_share"
    shares = [float(row[key]) for row in metrics if row.get(key) is not None]
    if not shares:
        return ""
    tenth = max(1, len(shares) // 10)
    before, after = (sum(part) / tenth for part in (shares[:tenth], shares[-tenth:]))
    return f"{before:.0%} → {after:.0%}"


def _ends(rows: Sequence[Row], tenths: bool = False) -> tuple[list[Row], list[Row]]:
    """Rows of the first and of the last step, or of the first and last tenth of the steps."""
    steps = sorted({row["step"] for row in rows})
    count = max(1, len(steps) // 10) if tenths else 1
    first, last = set(steps[:count]), set(steps[-count:])
    return [r for r in rows if r["step"] in first], [r for r in rows if r["step"] in last]


def _step(rows: Sequence[Row]) -> int | None:
    return rows[0]["step"] if rows else None


def _origin(early: Sequence[Row], late: Sequence[Row], training: bool) -> str:
    if not early or not late:
        return ""
    if training:
        return f"Training samples, {len(early)} of the first steps → {len(late)} of the last"
    return f"Held-out replies, step {_step(early)} → step {_step(late)}"


def _examples(heldout: Sequence[Row], alarm: Row) -> list[dict[str, Any]]:
    """Prompts with a gain of reward and a loss of gold, by the product: before and at the alarm."""
    by_step: dict[int, dict[str, Row]] = {}
    for row in heldout:
        if row["reward"] is not None:
            by_step.setdefault(row["step"], {})[row["dialogue_id"]] = row
    before, now = (by_step.get(alarm[key], {}) for key in ("alarm/since", "step"))
    changes = {
        prompt: tuple(now[prompt][key] - row[key] for key in ("reward", "gold_score"))
        for prompt, row in before.items()
        if prompt in now
    }
    hacked = [prompt for prompt, (gain, gold) in changes.items() if gain > 0 > gold]
    chosen = sorted(hacked, key=lambda p: (changes[p][0] * changes[p][1], p))[:EXAMPLES]
    return [
        example_card(
            f"reward {changes[prompt][0]:+.2f}",
            f"gold {changes[prompt][1]:+.2f}"
            + (", serious issues are new" * (serious(now[prompt]) and not serious(before[prompt]))),
            [
                (f"after step {alarm['alarm/since']}", before[prompt]),
                (f"after step {alarm['step']}", now[prompt]),
            ],
        )
        for prompt in chosen
    ]
