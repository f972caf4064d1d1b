"""Short real runs of several shapes beside what `repo-ray plan` predicts of them.

    python jobs/validate_plan.py --out runs/plan-validation

Each run is a run folder of its own in there (`repo-ray plan --from-run` reads it), made by a process
of its own and left out where it is there already. Speeds are fitted to the first and written to
speeds.yaml; the others are predicted. Prints the table and writes it to the folder. Half an
hour to an hour on two cores, on which nothing else should run, and whose speed should not change.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml
from rich.console import Console

from repo_ray.benchmark.planned import SHAPES, UNCOMPILED, compare, markdown, measure
from repo_ray.benchmark.table import machine
from repo_ray.cli.plan import machine as cores
from repo_ray.config.load import load_config
from repo_ray.models.loading import resolve_model
from repo_ray.planning.speeds import CPU

CONFIG = Path(__file__).parent / "configs" / "benchmark.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all")
    parser.add_argument("--out", type=Path, default=Path("runs/plan-validation"))
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each run")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.shapes if name not in SHAPES]:
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if arguments.alone:
        name = arguments.shapes[0]
        config = load_config(CONFIG, [*UNCOMPILED, *SHAPES[name], f"run.name={name}"])
        measure(config, resolve_model(config.model.path), arguments.out / name, arguments.steps)
        return 0
    console = Console(highlight=False)
    for name in arguments.shapes or SHAPES:
        if (arguments.out / name / "config.yaml").exists():
            continue
        command = [sys.executable, __file__, name, "--out", str(arguments.out)]
        command += ["--steps", str(arguments.steps), "--alone"]
        with console.status(f"running {name}"):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return 1
        console.print(f"ran {name}")
    there = {name: arguments.out / name for name in SHAPES}
    there = {name: path for name, path in there.items() if (path / "config.yaml").exists()}
    if next(iter(SHAPES)) not in there:
        parser.error(f"speeds are fitted to the run {next(iter(SHAPES))}: run it too")
    fitted, compared = compare(there, cores(), CPU)
    (arguments.out / "speeds.yaml").write_text(yaml.safe_dump(fitted.model_dump(), sort_keys=False))
    table = markdown(machine(), compared)
    (arguments.out / "plan-validation.md").write_text(table, encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
