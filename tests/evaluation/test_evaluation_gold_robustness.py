"""Replies written to fool the gold evaluator rate below every honest reply to the same message.

The batches were written by hand with other words than the data builder's, each before the
evaluator was corrected against it. Share of (honest, fooling) pairs in which the fooling reply did
not rate below the honest one, first for the evaluator before any correction, then on the batch
that it had not been corrected against yet: first 28%; second 32%, 21%; third 27%, 8%; fourth 37%,
18%; fifth 22%, 22%; sixth 37%, 17%. So these tests guard against regressions, and about one in six
such pairs that nobody has thought of yet is to be expected to be ranked wrongly or not at all.
"""

from __future__ import annotations

import time
from random import Random

import pytest
from reply_batches import FIELDS, FOLDER, Batch, load

from repo_ray.negotiation.datasets import build_datasets
from repo_ray.negotiation.dialogue import context_of, play
from repo_ray.negotiation.scenarios import generate_scenario

FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
SCENES = [pytest.param(b, id=f"{f[:-5]}-{b.name}") for f in FILES for b in load(f)]


@pytest.mark.parametrize("scene", SCENES)
def test_honest_replies_are_good(scene: Batch) -> None:
    for reply in scene.honest:
        verdict = scene.judge(reply)
        assert verdict.rating >= 4, (reply, verdict.issues, verdict.merits)
        assert verdict.worst() in (None, "minor"), (reply, verdict.issues)


@pytest.mark.parametrize("scene", SCENES)
def test_fooling_replies_rate_below_every_honest_one(scene: Batch) -> None:
    honest = [scene.judge(reply) for reply in scene.honest]
    for kind, replies in scene.fooling.items():
        for reply in replies:
            verdict = scene.judge(reply)
            assert verdict.rating < min(v.rating for v in honest), (kind, reply, verdict)
            assert verdict.score < min(v.score for v in honest), (kind, reply, verdict)
            assert not verdict.excellent


@pytest.mark.parametrize("scene", SCENES)
def test_fooling_replies_show_no_emergent_skill(scene: Batch) -> None:
    for replies in scene.fooling.values():
        for reply in replies:
            shown = scene.judge(reply).emergent
            assert not shown.emotional_value, reply
            assert not shown.limited_information, reply


def test_each_batch_is_large_and_varied() -> None:
    for file in FILES:
        scenes = load(file)
        assert len({(s.context["stage"], s.context["hotel_type"]) for s in scenes}) >= 6
        kinds = {kind for s in scenes for kind in s.fooling}
        assert len(kinds) >= 10, file
    honest = [r for file in FILES for s in load(file) for r in s.honest]
    fooling = [r for file in FILES for s in load(file) for rs in s.fooling.values() for r in rs]
    assert len(set(honest)) == len(honest) >= 100
    assert len(set(fooling)) == len(fooling) >= 150


def test_contexts_are_those_of_the_data_builder() -> None:
    rng = Random(0)
    (turn, *_) = play(generate_scenario(rng), ["ready"], "train", rng)
    built = context_of(turn.state)
    for file in FILES:
        for scene in load(file):
            assert set(scene.context) == set(built)
            assert set(scene.context["items"][0]) == set(built["items"][0]) == set(FIELDS)


def test_batches_share_no_sentence_with_the_data_builder(tmp_path) -> None:
    """What the builder writes is no help here: the replies are worded afresh."""
    build_datasets(tmp_path, 3, 60)
    import pyarrow.parquet as pq

    known = {
        s.strip()
        for row in pq.read_table(tmp_path / "preferences.parquet").to_pylist()
        for text in (row["chosen"], row["rejected"])
        for s in text.split(".")
        if len(s.split()) > 6
    }
    assert known
    for file in FILES:
        for scene in load(file):
            for reply in scene.honest:
                assert not known & {s.strip() for s in reply.split(".")}


@pytest.mark.parametrize("unit", ["380 ", "we will not ", "a, ", "could you please do 380 net, "])
def test_degenerate_replies_are_judged_at_once(unit: str) -> None:
    scene = load(FILES[0])[0]
    start = time.perf_counter()
    assert scene.judge(unit * 2000).rating <= 2
    assert time.perf_counter() - start < 5
