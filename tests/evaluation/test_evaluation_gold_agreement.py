"""Agreement of the gold evaluator with the labels of the data set's own pairs.

Misreadings were corrected on other pairs of the same builder, so this guards against regressions;
it is no independent estimate of accuracy.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from repo_ray.evaluation.gold import judge_reply
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.records import Message


def test_it_prefers_the_better_reply_of_nearly_every_pair(tmp_path: Path) -> None:
    build_datasets(tmp_path, 11, 300)
    pairs = pq.read_table(tmp_path / "preferences.parquet").to_pylist()
    won = serious = 0
    for pair in pairs:
        messages = tuple(Message(m["role"], m["content"]) for m in pair["messages"])
        context = json.loads(pair["context"])
        chosen = judge_reply(messages, context, {}, pair["chosen"])
        rejected = judge_reply(messages, context, {}, pair["rejected"])
        won += chosen.score > rejected.score
        serious += chosen.worst() in ("major", "severe")
    assert won / len(pairs) > 0.9
    assert serious / len(pairs) < 0.05
