"""Measures parts of the system beside what a user would pick instead, in turns, in one run.

    python jobs/benchmark.py --out runs/benchmark learner uneven peak

Writes benchmark.json and benchmark.md to the folder and prints the table. Every part runs in a
process of its own. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.console import Console

from repo_ray.actors.environment import thread_environment
from repo_ray.benchmark.apart import PartFailedError, run_apart
from repo_ray.benchmark.measure import compare
from repo_ray.benchmark.parts import PARTS
from repo_ray.benchmark.table import machine, markdown
from repo_ray.config.load import ConfigError, load_config
from repo_ray.models.loading import ModelNotFoundError, resolve_model

CONFIG = Path(__file__).parent / "configs" / "benchmark.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--repeats", type=int, default=5, help="measured turns of each side")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    chosen = arguments.parts or list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    try:
        config = load_config(arguments.config, [])
        model = resolve_model(config.model.path)
    except (ConfigError, ModelNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.alone:
        part = PARTS[chosen[0]]
        result = compare(part.bar, part.sides(config, model), arguments.repeats)
        arguments.alone.write_text(json.dumps(result.json()), encoding="utf-8")
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    # As the learner's actor has it.
    environment = os.environ | thread_environment(config.learner.threads, alone=True)
    results = {}
    for name in chosen:
        file = arguments.out / f"{name}.json"
        part = [__file__, name, "--config", str(arguments.config)]
        part += ["--repeats", str(arguments.repeats), "--alone", str(file)]
        try:
            run_apart(console, name, part, environment)
        except PartFailedError as error:
            print(error, file=sys.stderr)
            return 1
        results[name] = json.loads(file.read_text(encoding="utf-8"))
        console.print(f"{name}: {results[name]['ratio']['median']:.2f}x")
    content = {"machine": machine(), "repeats": arguments.repeats, "parts": results}
    (arguments.out / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n")
    text = markdown(content)
    (arguments.out / "benchmark.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
