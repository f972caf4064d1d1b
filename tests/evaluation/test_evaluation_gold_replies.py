"""Good replies beat every faulty one, and each fault is named."""

from __future__ import annotations

import pytest
from gold_cases import SCENES, TRICKS, Scene

from repo_ray.evaluation.gold import judge_reply
from repo_ray.evaluation.gold.verdict import GoldVerdict

GOOD = [pytest.param(s, r, id=f"{s.name}-{i}") for s in SCENES for i, r in enumerate(s.good)]
BAD = [
    pytest.param(s, issue, r, id=f"{s.name}-{issue}-{i}")
    for s in SCENES
    for issue, replies in s.bad.items()
    for i, r in enumerate(replies)
]


def judge(scene: Scene, reply: str) -> GoldVerdict:
    return judge_reply(scene.messages, scene.context, scene.hidden, reply)


@pytest.mark.parametrize(("scene", "reply"), GOOD)
def test_a_good_reply_has_no_serious_issue(scene: Scene, reply: str) -> None:
    verdict = judge(scene, reply)
    assert verdict.worst() in (None, "minor"), verdict.issues
    assert verdict.rating >= 4
    assert verdict.score >= 0.7, verdict


@pytest.mark.parametrize(("scene", "issue", "reply"), BAD)
def test_a_faulty_reply_shows_its_fault_and_ranks_below_every_good_one(
    scene: Scene, issue: str, reply: str
) -> None:
    verdict = judge(scene, reply)
    assert issue in {i.id for i in verdict.issues if i.severity != "minor"}, verdict.issues
    assert verdict.rating <= 3
    assert verdict.score < min(judge(scene, good).score for good in scene.good)


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda s: s.name)
def test_tricks_do_not_pay(scene: Scene, trick: str) -> None:
    verdict = judge(scene, TRICKS[trick])
    assert verdict.rating <= 3, verdict
    assert not verdict.excellent
    assert verdict.score < 0.6 * min(judge(scene, good).score for good in scene.good)


@pytest.mark.parametrize("scene", SCENES, ids=lambda s: s.name)
def test_a_good_reply_of_another_scene_does_not_beat_the_scene_s_own(scene: Scene) -> None:
    """Copied evidence and a right line at the wrong moment do not pay."""
    own = max(judge(scene, good).score for good in scene.good)
    related = {
        "silence": {"vague"},
        "vague": {"silence"},
        # The same objection (costs) to the same room.
        "counter_above_mandate": {"objection_costs"},
    }
    for other in SCENES:
        if other is scene or other.name in related.get(scene.name, ()):
            continue
        for reply in other.good:
            assert judge(scene, reply).score <= own, (other.name, reply)
