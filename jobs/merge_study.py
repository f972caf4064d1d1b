"""What becomes of small updates in merged bf16 weights, beside vLLM's own LoRA and float32 ones.

    python jobs/merge_study.py --out runs/merge-study

Writes merge-study.json and merge-study.md to the folder and prints the tables. Every part runs in
a process of its own and is left out where its files are there already. Under an hour on two
cores; the folder needs 2 GB for adapters.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from repo_ray.benchmark import merge_study
from repo_ray.benchmark.apart import PartFailedError, run_apart
from repo_ray.benchmark.merge_report import markdown, summarise
from repo_ray.benchmark.table import machine
from repo_ray.config.load import load_config
from repo_ray.config.settings import Config
from repo_ray.models.loading import resolve_model

CONFIG = Path(__file__).parent / "configs" / "merge_study.yaml"


def parts(config: Config, model: Path, out: Path) -> dict[str, tuple[Path, Callable[[], None]]]:
    """In order: the file that a part writes last, and what does it."""
    starts = merge_study.STARTS
    study: dict[str, tuple[Path, Callable[[], None]]] = {
        "starts": (
            out / "replies" / f"{starts[-1].name}.json",
            partial(merge_study.make_starts, config, model, out),
        )
    }
    for start in starts:
        for lr in merge_study.MARKS:
            study[f"train_{start.name}_{lr:g}"] = (
                out / "weights" / f"{start.name}_{lr:g}.json",
                partial(merge_study.train, config, model, out, start, lr),
            )
    for start in starts:
        study[f"forward_{start.name}"] = (
            out / "forward" / f"{start.name}.json",
            partial(merge_study.forward, config, model, out, start),
        )
    for mode in merge_study.MODES:
        for start in starts:
            study[f"engine_{mode}_{start.name}"] = (
                out / "engines" / f"{mode}_{start.name}.json",
                partial(merge_study.engine, config, model, out, mode, start),
            )
    study["learner"] = (
        out / "learner.json",
        partial(merge_study.learner_of_replies, config, model, out),
    )
    return study


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="only these; all")
    parser.add_argument("--out", type=Path, default=Path("runs/merge-study"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    config = load_config(CONFIG, [])
    study = parts(config, resolve_model(config.model.path), arguments.out)
    if unknown := [name for name in arguments.parts if name not in study]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(study)}")
    chosen = arguments.parts or list(study)
    if arguments.alone:
        study[chosen[0]][1]()
        return 0
    console = Console(highlight=False)
    for name in chosen:
        if study[name][0].exists():
            continue
        try:
            run_apart(console, name, [__file__, name, "--out", str(arguments.out), "--alone"])
        except PartFailedError as error:
            print(error, file=sys.stderr)
            return 1
    if missing := [name for name, (file, _) in study.items() if not file.exists()]:
        console.print(f"still to be done: {', '.join(missing)}")
        return 0
    learner = json.loads((arguments.out / "learner.json").read_text(encoding="utf-8"))
    content = {"machine": machine()}
    content |= summarise(arguments.out, learner)
    (arguments.out / "merge-study.json").write_text(json.dumps(content, indent=1) + "\n")
    text = markdown(content)
    (arguments.out / "merge-study.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
