"""Measures how the time of a step grows with samples and tokens, and draws it.

    python jobs/growth.py --out runs/growth
    python jobs/growth.py --out runs/growth --samples 8 16 --tokens 16

Writes growth.html to the folder, and every point as JSON: one that is there is not measured again.
Every point runs in a process of its own. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from repo_ray.benchmark.growth import Point, curves, measure_point, write_page
from repo_ray.benchmark.table import machine
from repo_ray.config.load import ConfigError, load_config
from repo_ray.models.loading import ModelNotFoundError, resolve_model

CONFIG = Path(__file__).parent / "configs" / "benchmark.yaml"
SAMPLES, TOKENS = (8, 16, 32, 64), (16, 64, 128, 256)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--samples", type=int, nargs="*", default=SAMPLES)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS, help="most per reply")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each point")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        config = load_config(arguments.config, [])
        model = resolve_model(config.model.path)
    except (ConfigError, ModelNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.alone:
        size = (arguments.samples[0], arguments.tokens[0])
        point = measure_point(config, model, *size, arguments.steps)
        arguments.alone.write_text(json.dumps(asdict(point)), encoding="utf-8")
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    samples, tokens = config.run.batch_size, config.sampling.max_new_tokens
    wanted = [(n, tokens) for n in arguments.samples] + [(samples, t) for t in arguments.tokens]
    for n, t in dict.fromkeys(wanted):
        file = arguments.out / f"{n}x{t}.json"
        if file.exists():
            continue
        command = [sys.executable, __file__, "--config", str(arguments.config)]
        command += ["--samples", str(n), "--tokens", str(t), "--steps", str(arguments.steps)]
        with console.status(f"measuring {n} samples of {t} tokens"):
            done = subprocess.run(
                [*command, "--alone", str(file)], capture_output=True, text=True, check=False
            )
        if done.returncode:
            print(f"{n} samples of {t} tokens failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return 1
        console.print(f"{n} samples of {t} tokens: {file.read_text(encoding='utf-8')}")
    points = [Point(**json.loads(f.read_text())) for f in arguments.out.glob("*x*.json")]
    points.sort(key=lambda p: (p.samples, p.max_new_tokens))
    page = arguments.out / "growth.html"
    write_page(page, machine(), points, curves(points, samples, tokens))
    console.print(f"drawn: {page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
