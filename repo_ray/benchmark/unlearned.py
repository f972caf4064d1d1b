"""Checkpoints of a reward model and a judge that have learned nothing.

What they say means nothing, what they cost does not depend on it.
"""

from __future__ import annotations

from pathlib import Path

from repo_ray.config.settings import Config
from repo_ray.learner.preparation import adapted, base_of
from repo_ray.rewards import reward_model as rm
from repo_ray.rewards.judge import local
from repo_ray.rewards.judge.network import ADAPTER, ADDRESSED, JudgeModel
from repo_ray.rewards.judge.rubric import load_rubric

#: logit of a sentence that talks to the judge: it never does. One that did would be judged twice.
NEVER = -10.0


def write_reward_model(config: Config, model: Path, folder: Path) -> Path:
    """A fresh adapter and a random head; zero and scale are 0 and 1. Returns `folder`."""
    _, network = adapted(config, model, rm.ADAPTER, config.train_reward_model)
    card = rm.RewardModelCard(
        format=rm.FORMAT,
        base=base_of(config, model),
        thinking=config.model.thinking,
        train_pairs=0,
        steps=0,
        seconds=0.0,
        reference="none",
        reference_replies=0,
        heldout=None,
    )
    rm.save_reward_model(folder, rm.RewardModel(network), 0.0, 1.0, card)
    return folder


def write_judge(config: Config, model: Path, folder: Path) -> Path:
    """A fresh adapter and random answers to every criterion, none switched off. Returns `folder`."""
    _, network = adapted(config, model, ADAPTER, config.train_judge)
    rubric = load_rubric(config.judge.rubric)
    judge = JudgeModel(network, rubric.ids)
    judge.directions.data[judge.answers.index(ADDRESSED)] = 0.0
    judge.offsets.data[judge.answers.index(ADDRESSED)] = NEVER
    card = local.JudgeCard(
        format=local.FORMAT,
        base=base_of(config, model),
        criteria={
            c.criterion_id: local.CriterionCard(
                question=c.question,
                auc=1.0,  # any less than `judge.min_auc` switches it off
                calibration_error=None,
                positives=0,
                negatives=0,
            )
            for c in rubric.criteria
        },
        rubric_digest=rubric.digest,
        train_verdicts=0,
        steps=0,
        seconds=0.0,
    )
    local.save_judge(folder, judge, card)
    return folder
