"""A synthetic run for the report: made-up numbers in the real shapes."""

from __future__ import annotations

import json
import random
from typing import Any

from gold_cases import SCENES, TRICKS

from repo_ray.evaluation.evaluate import GeneratedReply, evaluate_rows
from repo_ray.evaluation.report import ReportData
from repo_ray.records import Reward, Score, ScoreDetail


def rows(dialogues: int, issue: str | None) -> list[dict[str, Any]]:
    """Dialogue rows of three turns each, cycling through the hand-written scenes."""
    return [
        {
            "dialogue_id": f"d{d:02d}",
            "turn": turn,
            "prompt_id": f"d{d:02d}-{turn}",
            "messages": [{"role": m.role, "content": m.content} for m in scene.messages],
            "context": json.dumps(scene.context),
            "hidden": json.dumps(scene.hidden),
            "issue": issue,
        }
        for d in range(dialogues)
        for turn in range(3)
        for scene in [SCENES[(3 * d + turn) % len(SCENES)]]
    ]


def replies(given: list[dict[str, Any]], skill: float, seed: int) -> list[GeneratedReply]:
    """A good reply with probability `skill`, else a faulty one or a trick."""
    rng = random.Random(seed)
    found = []
    for i, _ in enumerate(given):
        scene = SCENES[i % len(SCENES)]
        if rng.random() < skill:
            text = rng.choice(scene.good)
        elif rng.random() < 0.6:
            text = rng.choice([r for bad in scene.bad.values() for r in bad])
        else:
            text = rng.choice(list(TRICKS.values()))
        points = 0.0 if rng.random() < skill else -15.0
        scores = (
            Score("reward_model", rng.gauss(skill, 0.5)),
            Score("judge", -10.0, {"empathy": ScoreDetail(-10.0, "does not answer the objection")}),
            Score("rules", points, {"price_outside_mandate": ScoreDetail(points, "402 is above")}),
        )
        value = rng.gauss(2 * skill - 0.5, 0.4)
        found.append(
            GeneratedReply(
                text,
                "length" if rng.random() < 0.1 * (1 - skill) else "stop",
                len(text.split()) * 2,
                scores,
                Reward(value, value, -10, points, points - 10, 0.9),
            )
        )
    return found


def pool_stats(calls: int, queue: int, wait_s: float, steps: int, busy_s: float) -> dict[str, Any]:
    """As `PoolStats` after `steps` steps of `calls` calls each, 20 s long."""
    return {
        "wanted": 1,
        "calls": calls * steps,
        "timeouts": 0,
        "restarts": 0,
        "max_queue": 256,
        "longest_queue": queue,
        "longest_wait_s": wait_s,
        "busy_s": busy_s * steps,
        "able_s": 20.0 * steps,
    }


def report_data(steps: int = 40, hostile: str = "") -> ReportData:
    """Three columns that improve, curves with noise, one dropped prompt; `hostile` is one reply."""
    rng = random.Random(7)
    online, bad = rows(30, None), rows(45, "consent_from_silence")
    columns = {}
    for seed, (title, skill) in enumerate({"base": 0.1, "warm_start": 0.5, "repo": 0.8}.items()):
        made = replies(online, skill, seed)
        if hostile:
            made[0] = GeneratedReply(hostile, "stop", 5, made[0].scores, made[0].reward)
        columns[title] = [
            *evaluate_rows(online, made, "online"),
            *evaluate_rows(bad, replies(bad, skill, seed + 10), "badcases"),
        ]
    metrics = []
    for step in range(1, steps + 1):
        x = step / steps
        metrics.append(
            {
                "step": step,
                "reward/total": x + rng.gauss(0, 0.15),
                "reward/r_model": 0.8 * x + rng.gauss(0, 0.1),
                "reward/e_judge": -20 + 12 * x + rng.gauss(0, 2),
                "reward/e_func": -15 + 10 * x + rng.gauss(0, 2),
                "reward/e_enh": -35 + 22 * x + rng.gauss(0, 3),
                "reward/small_r_model_share": 0.2 + rng.gauss(0, 0.03),
                "reply/tokens": 32 + 4 * x + rng.gauss(0, 2),
                "reply/truncated_share": max(0.0, 0.1 - 0.1 * x + rng.gauss(0, 0.02)),
                "rules/hits_per_reply": 1 - 0.6 * x + rng.gauss(0, 0.05),
                "entropy": 2.2 - 0.9 * x + rng.gauss(0, 0.05),
                "mismatch_kl": 0.002 + abs(rng.gauss(0, 0.0005)),
                "clip_share": 0.05 + 0.03 * x + rng.gauss(0, 0.01),
                "approx_kl": 0.01 + abs(rng.gauss(0, 0.002)),
                "explained_variance": 0.7 * x - 0.1 + rng.gauss(0, 0.05),
                "ess": 0.97 + rng.gauss(0, 0.005),
                "policy_loss": rng.gauss(0, 0.02),
                "value_loss": 0.5 - 0.3 * x + rng.gauss(0, 0.02),
                "time/collect_s": 9 + rng.gauss(0, 0.4),
                "time/update_s": 5 + rng.gauss(0, 0.2),
                "time/push_s": 1.2,
                "skipped": "",
                "pools": {
                    "rollout": pool_stats(16, 4, 0.3, step % 20, 10.0),
                    "judge": pool_stats(32, 200, 6.4, step, 19.0),
                },
                "publication": [
                    {
                        "engine": "rollout-0",
                        "version": step,
                        "digest": f"{step:064x}",
                        "verified_tensors": 8,
                        "max_difference": 0.0,
                        "drain_s": 0.1,
                        "load_s": 0.6,
                        "verify_s": 0.3,
                        "total_s": 1.1,
                    }
                ],
            }
        )
    summary = {
        "name": "quickstart",
        "model": "smollm2-135m",
        "hardware": "2 CPU cores, 24 GiB",
        "seed": 0,
        "steps": steps,
        "backends": {"rollouts": "vLLM 0.32 (CPU), merged", "learner": "DeepSpeed ZeRO-2"},
        "tokens_per_s": {"rollout": 214.3, "learner": 402.0},
        "peak_memory_gib": 13.42,
        "reductions": [
            "16 prompts per step instead of 128",
            "48 new tokens instead of 512",
            "1,200 preference rows instead of 6,632",
        ],
        "canary": {"rollout-0": {"engine_moved": 1.31, "peft_moved": 1.3}},
        "adapters": {
            "learner": {"version": steps, "digest": f"{steps:064x}"},
            "engines": [{"engine": "rollout-0", "version": steps, "digest": f"{steps:064x}"}],
        },
        "ledger": {
            "issued": 16 * steps,
            "consumed": 16 * steps - 1,
            "dropped": {"judge: timeout": 1},
            "samples": 16 * steps + 4,
            "scores": 48 * steps,
            "invalid": {"judge: timeout": 5},
        },
        "seconds": {"data": 4.1, "warm_start": 95.0, "reward_model": 120.4, "repo": 320.0},
        "software": {"torch": "2.13.0", "ray": "2.60.0"},
    }
    curve = [
        {"step": float(s), "gold_score": 0.4 + 0.35 * s / steps + rng.gauss(0, 0.04)}
        for s in range(1, steps + 1)
    ]
    return ReportData(summary, metrics, columns, curve, resamples=500)
