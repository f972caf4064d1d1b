"""Which replies the report shows side by side, with the scores and reasons of each source."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from repo_ray.evaluation.measures import Row


def examples(columns: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Turns shown side by side: the largest gains and losses in gold score, and a spread.

    Where the gold evaluator does not know the task, the reward takes the place of its score.

    Turns that every reward source scored in every column go first, where there are any.
    Compared are the last two columns; the spread is evenly spaced over all turns, so that the
    page does not show only extremes.
    """
    keyed = {
        title: {(r["set"], r["dialogue_id"], r["turn"]): r for r in rows}
        for title, rows in columns.items()
    }
    if not keyed:
        return []
    titles = list(keyed)
    shared = sorted(set.intersection(*(set(rows) for rows in keyed.values())))
    scored = [k for k in shared if all(rows[k]["reward"] is not None for rows in keyed.values())]
    shared = scored or shared
    last, before = keyed[titles[-1]], keyed[titles[-2 if len(titles) > 1 else -1]]
    gains = {k: _gain(last[k], before[k]) for k in shared}
    by_gain = sorted(shared, key=lambda k: gains[k])
    spread = shared[:: max(1, len(shared) // 4)][:4]
    chosen = [
        *(("largest gain", k) for k in reversed(by_gain[-3:])),
        *(("largest loss", k) for k in by_gain[:3]),
        *(("evenly spaced", k) for k in spread),
    ]
    seen: set[Any] = set()
    cards = []
    for why, key in chosen:
        if key not in seen:
            seen.add(key)
            replies = [(t, keyed[t][key]) for t in titles]
            cards.append(example_card(why, f"{gains[key]:+.2f}", replies))
    return cards


def _gain(after: Row, before: Row) -> float:
    """Of the first score that both have; 0 where there is none."""
    for score in ("gold_score", "reward"):
        if after[score] is not None and before[score] is not None:
            return float(after[score] - before[score])
    return 0.0


def example_card(why: str, gain: str, replies: Sequence[tuple[str, Row]]) -> dict[str, Any]:
    """One turn as the page shows it: the talk, then each (title, row of `EVALUATION_SCHEMA`)."""
    first = replies[0][1]
    other = "User" if first["gold_score"] is None else "Hotel"
    return {
        "why": why,
        "gain": gain,
        "where": f"{first['set']} · {first['dialogue_id']} · turn {first['turn']}",
        "issue": first["issue"] or "",
        "system": [m["content"] for m in first["messages"] if m["role"] == "system"],
        "talk": [
            (other if m["role"] == "user" else "Agent", m["content"])
            for m in first["messages"]
            if m["role"] != "system"
        ][-4:],
        "replies": [{"title": title, **_reply(row)} for title, row in replies],
    }


def _reply(row: Row) -> dict[str, Any]:
    scores = json.loads(row["scores"] or "{}")
    sources = [
        {
            "name": name.replace("_", " "),
            "value": f"{s['value']:+.2f}" if s["value"] is not None else "invalid",
            "error": s["error"],
            "detail": [
                (k, f"{d['points']:+g}", d["reason"]) for k, d in s["detail"].items() if d["points"]
            ],
        }
        for name, s in scores.items()
    ]
    return {
        "text": row["reply"],
        "cut": row["finish_reason"] == "length",
        "rating": row["rating"],
        "excellent": row["excellent"],
        "gold": None if row["gold_score"] is None else f"{row['gold_score']:.2f}",
        "reward": f"{row['reward']:+.2f}" if row["reward"] is not None else None,
        "issues": json.loads(row["issues"]),
        "sources": sources,
    }
