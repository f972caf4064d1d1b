"""A run folder with two evaluated columns, made from the data builder's good and flawed replies."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from repo_ray.evaluation.evaluate import GeneratedReply, evaluate_rows, save_evaluation
from repo_ray.negotiation.dialogue import context_of, to_json
from repo_ray.negotiation.pairs import preference_pair

#: Names that occur nowhere else, so that a leak can be found.
BEFORE, AFTER = "quagga_before", "zebra_after"
SCRIPT = "<script>window.broken = true</script><img src=x onerror='window.broken = true'> & more"


def write_run(run: Path, pairs: int, *, hostile: bool = False, seed: int = 0) -> None:
    """Saves `pairs` turns of two columns; AFTER has the builder's good reply in three of four.

    With `hostile` the reply of BEFORE to the first turn is `SCRIPT`.
    """
    rng = Random(seed)
    rows, before, after = [], [], []
    for index in range(pairs):
        pair = preference_pair("task_expert", "heldout", rng)
        rows.append(
            {
                "dialogue_id": f"online-{index // 3:03d}",
                "turn": index % 3 + 1,
                "messages": pair.turn.messages(2),
                "context": to_json(context_of(pair.turn.state)),
                "hidden": to_json(pair.turn.hidden),
                "issue": None,
            }
        )
        good, bad = pair.chosen, pair.rejected
        before.append(bad if index % 4 else good)
        after.append(good if index % 4 else bad)
    if hostile:
        before[0] = SCRIPT
    save_columns(run, rows, {BEFORE: before, AFTER: after})


def save_columns(run: Path, rows: list[dict], columns: dict[str, list[str]]) -> None:
    """`columns` maps a column to its replies to `rows`."""
    folder = run / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for column, replies in columns.items():
        generated = [GeneratedReply(reply, "stop", len(reply.split())) for reply in replies]
        save_evaluation(folder, column, evaluate_rows(rows, generated, "online"))


def plain_row(dialogue_id: str, turn: int = 1, question: str = "What do you want?") -> dict:
    """A turn of a conversation about one room, for replies written by hand."""
    return {
        "dialogue_id": dialogue_id,
        "turn": turn,
        "messages": [{"role": "user", "content": question}],
        "context": json.dumps({"city": "Xiamen", "items": [{"ticket": "T1", "net_price": 410}]}),
        "issue": None,
    }
