"""Measures how a step grows with samples, tokens, engines and judges, and draws it.

    python jobs/growth.py --out runs/growth
    python jobs/growth.py --out runs/growth --curves engines judges
    python jobs/growth.py --out runs/growth --samples 8 16 --tokens 16

Samples and tokens are measured in real steps, engines and judges with simulated delays. Writes
growth.html to the folder, and every point as JSON: one that is there is not measured again, and the
page has them all, so that curves may be measured one after the other. Every point runs in a process
of its own. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from repo_ray.benchmark.growth import Point, SimulatedPoint, curves, measure_point, write_page
from repo_ray.benchmark.growth_simulated import SHAPES, measure_steps, simulated_curves
from repo_ray.benchmark.table import machine
from repo_ray.config.load import ConfigError, load_config
from repo_ray.config.settings import Config
from repo_ray.models.loading import ModelNotFoundError, resolve_model

CONFIG = Path(__file__).parent / "configs" / "benchmark.yaml"
SAMPLES, TOKENS = (8, 16, 32, 64), (16, 64, 128, 256)
ENGINES, JUDGES = (8, 32, 128, 512), (1, 2, 4, 8, 16)
CURVES = ("samples", "tokens", "engines", "judges")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES, help="to measure")
    parser.add_argument("--samples", type=int, nargs="*", default=SAMPLES)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS, help="most per reply")
    parser.add_argument("--engines", type=int, nargs="*", default=ENGINES)
    parser.add_argument("--judges", type=int, nargs="*", default=JUDGES)
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each point")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        config = load_config(arguments.config, [])
        if arguments.alone:
            point = measure(arguments, config)
            arguments.alone.write_text(json.dumps(asdict(point)), encoding="utf-8")
            return 0
    except (ConfigError, ModelNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, options in dict(wanted(arguments, config)).items():
        file = arguments.out / f"{name}.json"
        if file.exists():
            continue
        command = [sys.executable, __file__, "--config", str(arguments.config)]
        command += ["--steps", str(arguments.steps), *options, "--alone", str(file)]
        with console.status(f"measuring {name}"):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return 1
        console.print(f"{name}: {file.read_text(encoding='utf-8')}")
    console.print(f"drawn: {draw(arguments.out, config)}")
    return 0


def wanted(arguments: argparse.Namespace, config: Config) -> Iterator[tuple[str, list[str]]]:
    """The file name of every point, and the options that measure it."""
    samples, tokens = config.run.batch_size, config.sampling.max_new_tokens
    for curve in arguments.curves:
        for size in getattr(arguments, curve):
            if curve in SHAPES:
                yield f"{curve}-{size}", ["--curves", curve, f"--{curve}", str(size)]
                continue
            n, t = (size, tokens) if curve == "samples" else (samples, size)
            options = ["--curves", curve, "--samples", str(n), "--tokens", str(t)]
            yield f"{n}x{t}", options


def measure(arguments: argparse.Namespace, config: Config) -> Point | SimulatedPoint:
    """The one point that these options say. Raises `ModelNotFoundError`."""
    curve, steps = arguments.curves[0], arguments.steps
    if curve in SHAPES:
        shape = SHAPES[curve](getattr(arguments, curve)[0])
        return asyncio.run(measure_steps(curve, shape, steps))
    model = resolve_model(config.model.path)
    return measure_point(config, model, arguments.samples[0], arguments.tokens[0], steps)


def draw(out: Path, config: Config) -> Path:
    """The page of all points in the folder."""
    points = [Point(**json.loads(f.read_text())) for f in out.glob("[0-9]*x[0-9]*.json")]
    points.sort(key=lambda p: (p.samples, p.max_new_tokens))
    simulated = [
        SimulatedPoint(**json.loads(f.read_text()))
        for curve in SHAPES
        for f in out.glob(f"{curve}-*.json")
    ]
    simulated.sort(key=lambda p: (p.curve, p.engines, p.judges))
    real = curves(points, config.run.batch_size, config.sampling.max_new_tokens)
    page = out / "growth.html"
    write_page(page, machine(), points, real, simulated, simulated_curves(simulated))
    return page


if __name__ == "__main__":
    raise SystemExit(main())
