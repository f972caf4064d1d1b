"""Measures how a step grows, draws it, and says how far `repo-ray plan` was off.

    python jobs/growth.py --out runs/growth
    python jobs/growth.py --out runs/growth --curves engines judges

Samples, tokens and other shapes are short real runs beside the plan's predictions; engines and judges
are simulated delays. Writes growth.html to the folder and prints its summary. Every point has a file or
a run folder (`repo-ray plan --from-run` reads it): one that is there is not measured again, and the
page has them all. Every point runs in a process of its own. Nothing else should run on the machine: an
hour or two on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from repo_ray.benchmark.apart import PartFailedError, run_apart
from repo_ray.benchmark.growth import SimulatedPoint, write_page
from repo_ray.benchmark.growth_simulated import SHAPES, measure_steps, simulated_curves
from repo_ray.benchmark.planned import UNCOMPILED, compare, done, measure, runs, summary
from repo_ray.benchmark.table import machine
from repo_ray.config.load import ConfigError, load_config
from repo_ray.models.loading import ModelNotFoundError, resolve_model
from repo_ray.planning import Cluster
from repo_ray.planning.speeds import CPU

CONFIG = Path(__file__).parent / "configs" / "benchmark.yaml"
ENGINES, JUDGES = (8, 32, 128, 512), (1, 2, 4, 8, 16)
CURVES = ("runs", "engines", "judges")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES, help="to measure")
    parser.add_argument("--engines", type=int, nargs="*", default=ENGINES)
    parser.add_argument("--judges", type=int, nargs="*", default=JUDGES)
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each point")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    out: Path = arguments.out
    try:
        if arguments.alone:
            measure_point(arguments, arguments.alone)
            return 0
        load_config(arguments.config, [])
        out.mkdir(parents=True, exist_ok=True)
        for name in wanted(arguments):
            if done(out / name) or (out / f"{name}.json").exists():
                continue
            options = ["--config", str(arguments.config), "--out", str(out)]
            options += ["--steps", str(arguments.steps), "--alone", name]
            run_apart(console, name, [__file__, *options])
            console.print(f"measured {name}")
    except (ConfigError, ModelNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    except PartFailedError as error:
        print(error, file=sys.stderr)
        return 1
    draw(out)
    return 0


def wanted(arguments: argparse.Namespace) -> Sequence[str]:
    """Names of the points: run folders, and files of simulated ones."""
    names = list(runs()) if "runs" in arguments.curves else []
    simulated = [curve for curve in arguments.curves if curve in SHAPES]
    return names + [f"{curve}-{size}" for curve in simulated for size in getattr(arguments, curve)]


def measure_point(arguments: argparse.Namespace, name: str) -> None:
    """Measures the point of that name. Raises `ConfigError` and `ModelNotFoundError`."""
    if name in runs():
        changes = [*UNCOMPILED, *runs()[name], f"run.name={name}"]
        config = load_config(arguments.config, changes)
        measure(config, resolve_model(config.model.path), arguments.out / name, arguments.steps)
        return
    curve, size = name.split("-")
    point = asyncio.run(measure_steps(curve, SHAPES[curve](int(size)), arguments.steps))
    (arguments.out / f"{name}.json").write_text(json.dumps(asdict(point)), encoding="utf-8")


def draw(out: Path) -> None:
    """The page of all points in the folder."""
    compared = compare(out, list(runs()), Cluster.of_this_machine(), CPU)
    simulated = [
        SimulatedPoint(**json.loads(file.read_text(encoding="utf-8")))
        for curve in SHAPES
        for file in out.glob(f"{curve}-*.json")
    ]
    simulated.sort(key=lambda p: (p.curve, p.engines, p.judges))
    page = out / "growth.html"
    write_page(page, machine(), compared, simulated, simulated_curves(simulated))
    if compared:
        print(summary(compared))
    print(f"drawn: {page}")


if __name__ == "__main__":
    raise SystemExit(main())
