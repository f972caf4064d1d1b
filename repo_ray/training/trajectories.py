"""Writes and reads each step's trajectories: a sample's whole way from prompt to gradient, and
which prompts never got there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repo_ray.learner.ppo_learner import UpdateResult
from repo_ray.records import TRAJECTORIES_SCHEMA, Dropped, Experience, scores_to_json, turns_to_json


def trajectory_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.parquet"


def write_trajectories(
    folder: Path, step: int, batch: Sequence[Experience], update: UpdateResult
) -> Path:
    """One Parquet file per step, one row per sample (a dialogue is one sample); replaced whole
    or not at all.

    Where the update was skipped, the learner's columns are null; an empty batch has no rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learned = {sample.sample_id: asdict(sample) for sample in update.samples}
    rows = [{**_row(step, e), **learned.get(e.rollout.sample_id, {})} for e in batch]
    path = trajectory_path(folder, step)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=TRAJECTORIES_SCHEMA), partial)
    partial.replace(path)
    return path


def write_dropped(folder: Path, step: int, dropped: Sequence[Dropped]) -> Path:
    """One file of JSON lines per step, one line per dropped prompt; empty where none was, so that
    an earlier attempt at the step leaves nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"dropped-{step:06d}.jsonl"
    partial = path.with_suffix(".partial")
    lines = [json.dumps({"step": step, **asdict(d)}, ensure_ascii=False) + "\n" for d in dropped]
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
    return path


def read_trajectories(folder: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All rows of all steps, in order."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("step-*.parquet")):
        rows += pq.read_table(path, columns=list(columns) if columns else None).to_pylist()
    return rows


def _row(step: int, experience: Experience) -> dict[str, Any]:
    rollout, turns = experience.rollout, experience.turns
    said = turns[-1] if turns else None  # a dialogue's row is its last turn
    prompt = said.prompt if said else experience.prompt
    reward = said.reward if said else experience.reward
    return {
        "step": step,
        "sample_id": rollout.sample_id,
        "prompt_id": experience.prompt.prompt_id,
        "attempt": rollout.attempt,
        "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "context": json.dumps(dict(prompt.context), ensure_ascii=False),
        "reply": said.reply if said else rollout.text,
        "finish_reason": rollout.finish_reason,
        "engine": rollout.engine,
        "prompt_token_ids": rollout.prompt_token_ids,
        "token_ids": rollout.token_ids,
        "loss_mask": rollout.loss_mask,
        "versions": rollout.versions,
        "behaviour_logprobs": rollout.logprobs,
        "r_model": reward.r_model,
        "e_judge": reward.e_judge,
        "e_func": reward.e_func,
        "e_enh": reward.e_enh,
        "multiplier": reward.multiplier,
        "reward": reward.total,
        "scores": scores_to_json(said.scores if said else experience.scores),
        "token_rewards": [{"token": t, "reward": r} for t, r in experience.token_rewards],
        "turns": turns_to_json(turns) if turns else None,
    }
