"""Short real runs of several shapes, beside what `repo-ray plan` says of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from repo_ray.benchmark.running import Training, cluster
from repo_ray.config.load import dump_config
from repo_ray.config.settings import Config
from repo_ray.data.reader import read_prompts
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.planning import Cluster, read_architecture
from repo_ray.planning.forecast import Setting, forecast
from repo_ray.planning.measured import Measured, calibrated, read_run
from repo_ray.planning.speeds import Speeds

#: What each shape changes in the config. Speeds are fitted to the first, the others are predicted.
SHAPES: Mapping[str, Sequence[str]] = {
    "base": (),
    "samples-8": ("run.batch_size=8",),
    "samples-32": ("run.batch_size=32",),
    "tokens-16": ("sampling.max_new_tokens=16",),
    "tokens-112": ("sampling.max_new_tokens=112",),
    "rank-16": ("lora.rank=16", "lora.alpha=16"),
    "group": ("algorithm.advantage=group", "algorithm.group_size=8"),
    "no-judge": ("judge.enabled=false",),
    "two-engines": ("rollout.pool.replicas=2", "rollout.pool.cpus=0.2"),
    "staleness-1": ("run.staleness=1",),
}
#: Compiled code is traced anew for each shape; a short run would measure that.
UNCOMPILED = ("learner.compile=false", "rollout.enforce_eager=true")


@dataclass(frozen=True)
class Comparison:
    """Measured and predicted seconds of one shape, by phase (`Measured.errors`)."""

    shape: str
    errors: Mapping[str, tuple[float, float]]

    @property
    def step_error(self) -> float:
        """(predicted - measured) / measured of a whole step."""
        measured, predicted = self.errors["step"]
        return predicted / measured - 1


def measure(config: Config, model: Path, folder: Path, steps: int) -> None:
    """`steps` steps after one that warms up, on the built-in prompts; scorers have learned nothing.

    `folder` becomes what `read_run` reads. Its config comes last, so that it says: done.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    build_datasets(folder / "data", config.run.seed, 256)
    prompts = read_prompts(folder / "data" / "prompts.parquet", "train")
    with cluster(config):
        system = Training(config, model, prompts, folder)
        try:
            system.start()
            for _ in range(steps + 1):
                system.step()
            system.finish()
        finally:
            system.stop()
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")


def compare(
    folders: Mapping[str, Path], nodes: Cluster, speeds: Speeds
) -> tuple[Speeds, list[Comparison]]:
    """Speeds fitted to the first run, and all runs beside what these predict.

    Raises `PlanError` for a folder that is no such run.
    """
    runs = {name: read_run(folder) for name, folder in folders.items()}
    first = next(iter(runs.values()))
    fitted = calibrated(speeds, first, forecast(_setting(first, nodes, speeds)))
    return fitted, [
        Comparison(name, run.errors(forecast(_setting(run, nodes, fitted))))
        for name, run in runs.items()
    ]


def _setting(run: Measured, nodes: Cluster, speeds: Speeds) -> Setting:
    return Setting(run.config, read_architecture(run.config.model.path), nodes, speeds, run.load)


def markdown(machine: Mapping[str, str], compared: Sequence[Comparison]) -> str:
    """Seconds measured and predicted, and the error of each whole step but the fitted one."""
    lines = [
        f"{machine['hardware']}; seconds measured and predicted; speeds fitted to the first row.",
        "",
        "| shape | collect | update | push | step | error |",
        "|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(compared):
        cells = [_pair(row.errors.get(phase)) for phase in ("collect", "update", "push", "step")]
        error = f"{row.step_error:+.0%}" if number else "fitted"
        lines.append(f"| {row.shape} | {' | '.join(cells)} | {error} |")
    return "\n".join([*lines, "", _summary(row.step_error for row in compared[1:]), ""])


def _pair(seconds: tuple[float, float] | None) -> str:
    return f"{seconds[0]:.2f}, {seconds[1]:.2f}" if seconds else ""


def _summary(errors: Iterable[float]) -> str:
    off = [abs(error) for error in errors]
    if not off:
        return "Nothing was predicted: there is one run alone."
    return f"Off by {median(off):.0%} in the median of {len(off)} predicted steps, {max(off):.0%} at worst."
