"""The merge study's files as one summary, and that as Markdown tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repo_ray.algorithms.ppo import kl
from repo_ray.benchmark.merge_study import MARKS, MODES, STARTS, points
from repo_ray.benchmark.merging import followed

#: Of float32 passes, whose weights alone are rounded.
ROUNDINGS = ("nearest", "dithered", "native")


def summarise(out: Path, learner: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """All figures of the study in `out`.

    `learner` has, by `<mode>/<adapter>`, the learner's log-probs of the replies that the engine of
    that mode sampled with that adapter.
    """
    engines: dict[str, dict[str, Any]] = {mode: {} for mode in MODES}
    for mode in MODES:
        for start in STARTS:
            engines[mode] |= _read(out / "engines" / f"{mode}_{start.name}.json")
    weights, logprobs = [], []
    for start in STARTS:
        dithered = _read(out / "dithered" / f"{start.name}.json")
        for lr in MARKS:
            for mark in _read(out / "weights" / f"{start.name}_{lr:g}.json"):
                name = f"{start.name}_{lr:g}_{mark['step']}"
                weights.append(mark | {"dithered": dithered.get(name)})
        forward = _read(out / "forward" / f"{start.name}.json")
        for name, lr, step in points(start):
            one = {k: torch.tensor(v) for k, v in forward[name].items()}
            one |= {f"engine {mode}": torch.tensor(engines[mode][name]["probes"]) for mode in MODES}
            if not step:
                first = one
            row: dict[str, Any] = {"start": start.name, "lr": lr, "step": step}
            row["mismatch_kl"] = {
                k: kl(v, one["learner"]) for k, v in one.items() if k != "learner"
            }
            row["exact_kl"] = {k: kl(v, one["exact"]) for k, v in one.items() if k != "exact"}
            if step:
                row |= _moved(one, first)
            logprobs.append(row)
    sampled = []
    for mode in MODES:
        for name, found in engines[mode].items():
            if "replies" in found:
                behaviour = [x for r in found["replies"] for x in r["logprobs"]]
                theirs = torch.tensor(learner[f"{mode}/{name}"])
                sampled.append(
                    {
                        "mode": mode,
                        "adapter": name,
                        "mismatch_kl": kl(torch.tensor(behaviour), theirs),
                        "tokens_per_s": found["tokens_per_s"],
                    }
                )
    pushes = {
        mode: statistics.median(found["push_s"] for found in engines[mode].values())
        for mode in MODES
    }
    return {"weights": weights, "logprobs": logprobs, "sampled": sampled, "push_s": pushes}


def _moved(now: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Any]:
    change = {k: v - first[k] for k, v in now.items()}
    return {
        "exact_moved_kl": kl(first["exact"], now["exact"]),
        "moved_kl": {k: kl(first[k], v) for k, v in now.items()},
        "followed": {
            k: asdict(followed(v, change["exact"])) for k, v in change.items() if k != "exact"
        },
    }


def markdown(content: Mapping[str, Any]) -> str:
    """The tables: weights, what float32 passes over rounded weights follow, and real engines."""
    where = content["machine"]
    lines = [f"{where['hardware']}; torch {where['torch']}, vllm {where['vllm']}.", ""]
    lines += ["bf16 weights, against the exact update: elements lost; norm, cosine, slope:", ""]
    lines += _head(["start", "lr", "step", "nearest", "nearest, last push", "dithered"])
    for r in content["weights"]:
        cells = [_kept(r[k]) for k in ("since_start", "last_push", "dithered")]
        lines.append(_row([r["start"], f"{r['lr']:g}", r["step"], *cells]))
    moved = [r for r in content["logprobs"] if r["step"]]
    titles = ["start", "lr", "step", "exact rms, nats"]
    lines += ["", "How log-probs follow (slope ± error, correlation); float32 passes over:", ""]
    lines += _head([*titles, *ROUNDINGS])
    lines += _table(moved, lambda r: [_followed(r["followed"][k]) for k in ROUNDINGS])
    engines = ["learner", *(f"engine {mode}" for mode in MODES)]
    lines += ["", "The same for the learner's own bf16 passes and for real engines:", ""]
    lines += _head([*titles, *engines])
    lines += _table(moved, lambda r: [_followed(r["followed"][k]) for k in engines])
    lines += ["", "KL(engine, learner), and KL(engine, exact) of the same replies:", ""]
    lines += _head(
        ["start", "lr", "step", *MODES, *(f"{m}, to exact" for m in MODES), "exact moved"]
    )
    for r in content["logprobs"]:
        row = [r[kind][f"engine {m}"] for kind in ("mismatch_kl", "exact_kl") for m in MODES]
        row.append(r.get("exact_moved_kl", 0.0))
        lines.append(_row([r["start"], f"{r['lr']:g}", r["step"], *(f"{x:.2e}" for x in row)]))
    lines += ["", "Replies that the engine sampled itself:", ""]
    lines += _head(["engine", "adapter", "mismatch KL", "tokens/s", "push, s"])
    for r in content["sampled"]:
        push = content["push_s"][r["mode"]]
        figures = [f"{r['mismatch_kl']:.2e}", f"{r['tokens_per_s']:.0f}", f"{push:.2f}"]
        lines.append(_row([r["mode"], r["adapter"], *figures]))
    return "\n".join(lines) + "\n"


def _table(
    rows: Sequence[Mapping[str, Any]], cells: Callable[[Mapping[str, Any]], list[str]]
) -> list[str]:
    return [
        _row(
            [
                r["start"],
                f"{r['lr']:g}",
                r["step"],
                f"{r['followed']['learner']['moved']:.2e}",
                *cells(r),
            ]
        )
        for r in rows
    ]


def _kept(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    figures = ", ".join(f"{found[k]:.3f}" for k in ("norm", "cosine", "slope"))
    return f"{100 * found['share_lost']:.1f}%; {figures}"


def _followed(found: Mapping[str, float]) -> str:
    return f"{found['slope']:.2f} ± {found['error']:.2f}, {found['correlation']:.2f}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_row(titles), "|" + "---|" * len(titles)]


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
