"""Turns a run's numbers into what the report shows: plain lists and texts, no markup but charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repo_ray.evaluation.charts import Series, interval_bar, line_chart
from repo_ray.evaluation.measures import MEASURES, Measure, MeasureSpec

Measures = Mapping[str, Measure]

#: Measures on the first screen; and those for a task that the gold evaluator does not know.
NUMBERS = ("gold_score", "dialogue_rating", "clean_fix", "serious_issue_rate")
UNJUDGED_NUMBERS = ("reward", "rule_violation_rate", "fluency", "words")

#: Chart title, what it tells, and its lines as (label, key of metrics.jsonl or of the gold curve).
CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Training reward", "R_total: what is optimised", (("R_total", "reward/total"),)),
    (
        "Gold score",
        "independent evaluator on the same samples, never part of the reward",
        (("gold score", "gold_score"), ("serious issues", "serious_issue_rate")),
    ),
    ("Reward model", "R_model, centred and scaled", (("R_model", "reward/r_model"),)),
    (
        "Judge and rules",
        "points",
        (("E_judge", "reward/e_judge"), ("E_func", "reward/e_func"), ("E_enh", "reward/e_enh")),
    ),
    (
        "Reply length",
        "tokens; replies thrown away because a score was invalid beside those of the batch",
        (("tokens", "reply/tokens"), ("thrown away", "reply/discarded_tokens")),
    ),
    (
        "Cut off, and rule hits",
        "share cut by the limit; rule hits per reply",
        (("cut off", "reply/truncated_share"), ("rule hits", "rules/hits_per_reply")),
    ),
    ("Entropy", "nats per token", (("entropy", "entropy"),)),
    (
        "Sampler against learner",
        "mismatch KL, nats per token; grows when engines sample something else",
        (("mismatch KL", "mismatch_kl"),),
    ),
    (
        "PPO",
        "share of tokens clipped; KL of the update",
        (("clip share", "clip_share"), ("approx. KL", "approx_kl")),
    ),
    (
        "Explained variance",
        "of the returns, by the value network",
        (("explained", "explained_variance"),),
    ),
    (
        "Effective sample size",
        "share of the batch that the importance weights leave",
        (("ESS", "ess"),),
    ),
    (
        "Losses",
        "policy and value",
        (("policy", "policy_loss"), ("value", "value_loss")),
    ),
    (
        "Small |R_model|",
        "share of samples on which judge and rules have almost no effect",
        (("share", "reward/small_r_model_share"),),
    ),
    (
        "Step time",
        "seconds",
        (("collect", "time/collect_s"), ("update", "time/update_s"), ("push", "time/push_s")),
    ),
)


def chart_cards(
    metrics: Sequence[Mapping[str, Any]], gold_curve: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:
    """One card per chart that has data; the first two are the page's main ones."""
    cards = []
    rows = [*metrics, *gold_curve]
    for title, note, lines in CHARTS:
        series = [
            Series(
                label, [(float(r["step"]), float(r[key])) for r in rows if _is_number(r.get(key))]
            )
            for label, key in lines
        ]
        series = [s for s in series if s.points]
        if series:
            legend = [(s.label, _ends(s)) for s in series]
            cards.append(
                {"title": title, "note": note, "legend": legend, "svg": line_chart(series, title)}
            )
    return cards


def _ends(series: Series) -> str:
    """Means of the first and of the last tenth of the steps; single steps are noise."""
    values = [y for _, y in series.points]
    tenth = max(1, len(values) // 10)
    return f"{_short(sum(values[:tenth]) / tenth)} → {_short(sum(values[-tenth:]) / tenth)}"


def measure_table(
    titles: Sequence[str], measures: Mapping[str, Measures], differences: Measures
) -> list[dict[str, Any]]:
    """One row per measure that any column has, with values, intervals and the difference."""
    specs = {s.name: s for s in MEASURES}
    for n in (1, 2):
        specs[f"distinct_{n}"] = MeasureSpec(
            f"distinct_{n}",
            f"Distinct-{n}",
            f"Distinct {'words' if n == 1 else 'word pairs'} over all, all replies together.",
            "score",
            "neither",
            None,
            lambda rows: (0.0, 0.0),
        )
    rows = []
    for name, spec in specs.items():
        cells = [_cell(measures[t].get(name), spec) for t in titles]
        if not any(cells):
            continue
        difference = differences.get(name)
        rows.append(
            {
                "label": spec.label,
                "definition": spec.definition,
                "set": spec.set or "both sets",
                "n": max(m[name].n for m in measures.values() if name in m),
                "cells": cells,
                "difference": difference and _difference(difference, spec),
            }
        )
    return rows


def _cell(measure: Measure | None, spec: MeasureSpec) -> dict[str, str] | None:
    if measure is None:
        return None
    interval = (
        f"{_show(measure.low, spec)} to {_show(measure.high, spec)}"
        if measure.low is not None and measure.high is not None
        else "no interval"
    )
    return {"value": _show(measure.value, spec, unit=True), "interval": interval}


def _difference(measure: Measure, spec: MeasureSpec) -> dict[str, Any]:
    assert measure.low is not None
    assert measure.high is not None
    bound = {"share": 0.6, "score": 0.6, "rating": 2.4}.get(
        spec.unit, max(abs(measure.low), abs(measure.high))
    )
    sign = {"higher": 1, "lower": -1, "neither": 0}[spec.better]
    direction = (measure.low > 0) - (measure.high < 0)
    verdicts = {1: "better", -1: "worse", 0: "unclear" if sign else "neutral"}
    return {
        "value": _show(measure.value, spec, signed=True, unit=True),
        "interval": f"{_show(measure.low, spec, signed=True)} to {_show(measure.high, spec, signed=True)}",
        "verdict": verdicts[sign * direction],
        "bar": interval_bar(measure.low, measure.value, measure.high, bound),
    }


def _show(
    value: float | None, spec: MeasureSpec, *, signed: bool = False, unit: bool = False
) -> str:
    assert value is not None
    sign = "+" if signed else ""
    if spec.unit == "share":
        suffix = (" pp" if signed else " %") if unit else ""
        return f"{100 * value:{sign}.1f}{suffix}"
    return f"{value:{sign}.1f}" if spec.unit in ("words", "tokens") else f"{value:{sign}.2f}"


def verdict(
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    titles: Sequence[str],
    measures: Mapping[str, Measures],
    differences: Measures,
    pushes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The two answers of the first screen: did it learn, and the checks behind trusting it."""
    judged = "gold_score" in differences
    name, label = ("gold_score", "Gold score") if judged else ("reward", "Training reward")
    change = differences.get(name)
    numbers = []
    if change is None or change.low is None or change.high is None:
        headline, kind = "No comparison was made", "unclear"
        text = "The run has fewer than two evaluated columns."
    else:
        before, after = (measures[t][name].value for t in titles[-2:])
        if change.low > 0:
            headline, kind = ("It learned", "better") if judged else ("The reward rose", "unclear")
        elif change.high < 0:
            headline, kind = "It got worse" if judged else "The reward fell", "worse"
        else:
            headline, kind = "No change shown", "unclear"
        text = (
            f"{label} {before:.2f} for {titles[-2]}, {after:.2f} for {titles[-1]}: "
            f"{change.value:+.2f}, 95% interval {change.low:+.2f} to {change.high:+.2f} over "
            f"{change.n} dialogues, paired."
        )
    for name in NUMBERS if judged else UNJUDGED_NUMBERS:
        spec = next(s for s in MEASURES if s.name == name)
        if name in differences:
            numbers.append(
                {
                    "label": spec.label,
                    "before": _show(measures[titles[-2]][name].value, spec),
                    "after": _show(measures[titles[-1]][name].value, spec, unit=True),
                    "difference": _difference(differences[name], spec),
                }
            )
    return {
        "headline": headline,
        "kind": kind,
        "text": text,
        "numbers": numbers,
        "checks": _checks(summary, metrics, differences, pushes, measures, titles),
    }


def _checks(
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    differences: Measures,
    pushes: Sequence[Mapping[str, Any]],
    measures: Mapping[str, Measures],
    titles: Sequence[str],
) -> list[dict[str, str]]:
    checks: list[dict[str, str]] = []

    def add(good: bool, title: str, text: str) -> None:
        checks.append({"kind": "good" if good else "warn", "title": title, "text": text})

    reward, gold = differences.get("reward"), differences.get("gold_score")
    if reward is not None and gold is not None:
        hacked = (reward.low or 0) > 0 and (gold.low or 0) <= 0
        text = f"training reward {reward.value:+.2f}, gold score {gold.value:+.2f}"
        title = "The reward rose, the gold score did not" if hacked else "Reward and gold agree"
        if not hacked and (reward.low or 0) <= 0 < (gold.low or 0):
            title = "Gold rose without a clear rise of the reward"
        add(not hacked, title, text)
    if differences and gold is None:
        text = "the gold evaluator knows only the built-in task; people can compare replies (repo-ray rate)"
        add(False, "No evaluator apart from the reward", text)
    checks_made = [row for row in metrics if "alarm/hacking" in row]
    alarms = [row for row in checks_made if row["alarm/hacking"]]
    if checks_made:
        title = (
            f"Alarm after step {alarms[0]['step']}: reward up, gold down"
            if alarms
            else "No alarm of reward hacking"
        )
        add(not alarms, title, (alarms or checks_made[-1:])[0]["alarm/text"])
    if pushes:
        worst = max(float(p["max_difference"]) for p in pushes)
        add(
            worst == 0,
            "Every push read back" if worst == 0 else "A push differed when read back",
            f"{len(pushes)} verified pushes, largest difference {worst:g}",
        )
    for engine, canary in dict(summary.get("canary", {})).items():
        moved, expected = float(canary["engine_moved"]), float(canary["peft_moved"])
        add(
            abs(moved - expected) <= 0.5 * expected,
            "A canary adapter moved the sampler",
            f"{engine}: {moved:.2f} nats per token, {expected:.2f} expected",
        )
    adapters = summary.get("adapters")
    if adapters and adapters.get("engines"):
        learner = adapters["learner"]
        same = all(e["digest"] == learner["digest"] for e in adapters["engines"])
        add(
            same,
            "Learner and engines hold the same adapter"
            if same
            else "An engine holds another adapter",
            f"version {learner['version']}, {str(learner['digest'])[:12]}, "
            f"{len(adapters['engines'])} engine(s)",
        )
    ledger = _ledger(summary, metrics)
    if ledger is not None:
        dropped, invalid = sum(ledger["dropped"].values()), sum(ledger["invalid"].values())
        balanced = ledger["issued"] == ledger["consumed"] + dropped
        share = invalid / ledger["scores"] if ledger["scores"] else 0.0
        add(
            balanced and share < 0.05,
            "Every prompt accounted for" if balanced else "Prompts are missing from the accounts",
            f"{ledger['issued']} issued = {ledger['consumed']} consumed + {dropped} dropped; "
            f"{share:.1%} of the scores invalid",
        )
    if titles and "truncated_share" in measures[titles[-1]]:
        cut = measures[titles[-1]]["truncated_share"].value
        add(
            cut < 0.1,
            "Replies end by themselves" if cut < 0.1 else "Replies run into the limit",
            f"{cut:.1%} cut off",
        )
    skipped = [bool(r["skipped"]) for r in metrics if "skipped" in r]
    if any(skipped):
        add(False, "Updates were skipped", f"{sum(skipped)} of {len(skipped)} steps")
    counted = {
        "steps_skipped": "Optimizer steps were skipped for a gradient that was not finite",
        "advantages_zero": "The policy had nothing to learn from: all advantages 0",
        "value_diverged": "The value network diverged",
    }
    for column, title in counted.items():
        rows = [row for row in metrics if column in row]
        if steps := sum(bool(row[column]) for row in rows):
            add(False, title, f"at {steps} of {len(rows)} steps")
    return checks


def publications(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every verified push of every engine, in order (`publication` of metrics.jsonl)."""
    return [{"step": row["step"], **push} for row in metrics for push in row.get("publication", [])]


def _ledger(
    summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The run's account: the summary's, or the last step's while there is none."""
    last = metrics[-1].get("ledger") if metrics else None
    return summary.get("ledger") or last


def accounting(
    summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Issued, consumed, dropped and invalid by cause, and the time of each phase."""
    ledger = _ledger(summary, metrics)
    if ledger is None:
        return []
    return [
        ("Prompts issued", f"{ledger['issued']:,}"),
        ("Prompts consumed", f"{ledger['consumed']:,}"),
        ("Prompts dropped", f"{sum(ledger['dropped'].values()):,}"),
        *((f"· {cause}", f"{n:,}") for cause, n in sorted(ledger["dropped"].items())),
        ("Replies sampled, retries included", f"{ledger['samples']:,}"),
        ("Scores asked for", f"{ledger['scores']:,}"),
        ("Scores invalid", f"{sum(ledger['invalid'].values()):,}"),
        *((f"· {cause}", f"{n:,}") for cause, n in sorted(ledger["invalid"].items())),
    ]


def run_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ran, as (name, text)."""
    plain = ("model", "hardware", "config", "seed", "steps", "peak_memory_gib")
    facts = [
        (k.replace("_", " ").replace("gib", "GiB"), _text(summary[k]))
        for k in plain
        if k in summary
    ]
    for group, unit in (("backends", ""), ("tokens_per_s", " tokens/s")):
        facts += [(f"{k}{unit}", _text(v)) for k, v in dict(summary.get(group, {})).items()]
    return facts


def phase_times(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Wall time and share per phase, with the total."""
    seconds = {str(k): float(v) for k, v in dict(summary.get("seconds", {})).items()}
    total = sum(seconds.values())
    if not total:
        return []
    rows = [(k.replace("_", " "), clock(v), f"{v / total:.0%}") for k, v in seconds.items()]
    return [*rows, ("total", clock(total), "")]


def clock(seconds: float) -> str:
    """`1 h 02 min`, `3 min 05 s` or `8.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes >= 60
        else f"{minutes} min {rest:02d} s"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _text(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
