"""Which rows of a data set a supervised stage uses."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from repo_ray.config.supervised import SupervisedConfig
from repo_ray.data.examples import Demonstration, Preference, Verdict

Item = TypeVar("Item")
RowT = TypeVar("RowT", Demonstration, Preference, Verdict)


def chosen_rows(
    rows: Sequence[RowT], stage: SupervisedConfig, seed: int
) -> tuple[list[RowT], list[RowT]]:
    """Training and held-out rows within the stage's limits."""
    train = [row for row in rows if row.split == "train"]
    heldout = [row for row in rows if row.split == "heldout"]
    return (
        choose(train, stage.max_rows, seed, lambda row: row.prompt.prompt_id),
        choose(heldout, stage.max_eval_rows, seed, lambda row: row.prompt.prompt_id),
    )


def choose(
    rows: Sequence[Item], limit: int | None, seed: int, group: Callable[[Item], Hashable]
) -> list[Item]:
    """At most `limit` rows in their original order, drawn without replacement.

    Rows of one group are drawn together (the last group may be cut), so that replies to one
    prompt can share its computation.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(group(row), []).append(index)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    kept = [index for members in order for index in members][:limit]
    return [rows[index] for index in sorted(kept)]
