"""How busy the actors of a run were, and whom the others waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def pool_rows(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row per pool, over the whole run (`pools` of metrics.jsonl: `actors.load.PoolStats`)."""
    history: dict[str, list[Mapping[str, Any]]] = {}
    for row in metrics:
        for kind, stats in row.get("pools", {}).items():
            if "able_s" in stats:  # runs of earlier versions do not have it
                history.setdefault(kind, []).append(stats)
    return [_row(kind, stats) for kind, stats in history.items()]


def _row(kind: str, history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    able_s, last = _total(history, "able_s"), history[-1]
    actors = {int(stats["wanted"]) for stats in history}
    counts = {key: f"{_total(history, key):,.0f}" for key in ("calls", "timeouts", "restarts")}
    return {
        "kind": kind.replace("_", " "),
        "actors": str(last["wanted"]) if len(actors) == 1 else f"{min(actors)} to {max(actors)}",
        "busy": f"{_total(history, 'busy_s') / able_s:.0%}" if able_s else "",
        "queue": f"{max(s['longest_queue'] for s in history):,} of {last['max_queue']:,}",
        "wait": f"{max(s['longest_wait_s'] for s in history):.1f} s",
        **counts,
    }


def _total(history: Sequence[Mapping[str, Any]], key: str) -> float:
    """The sum of a counter's growth; it starts again from zero where a run was resumed."""
    total = before = 0.0
    for stats in history:
        now = float(stats[key])
        total += now - before if now >= before else now
        before = now
    return total
