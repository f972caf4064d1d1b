"""Short real runs of several shapes, beside what `repo-ray plan` says of them."""

from __future__ import annotations

import shutil
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from repo_ray.benchmark.running import Training, cluster
from repo_ray.config.load import dump_config
from repo_ray.config.settings import Config
from repo_ray.data.reader import read_prompts
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.planning import Cluster, read_architecture
from repo_ray.planning.forecast import Forecast, Setting, forecast
from repo_ray.planning.measured import Measured, calibrated, read_run
from repo_ray.planning.speeds import Speeds

#: What each shape changes in the config.
SHAPES: Mapping[str, Sequence[str]] = {
    "samples-8": ("run.batch_size=8",),
    "samples-32": ("run.batch_size=32",),
    "tokens-16": ("sampling.max_new_tokens=16",),
    "tokens-112": ("sampling.max_new_tokens=112",),
    "group": ("algorithm.advantage=group", "algorithm.group_size=8"),
    "no-judge": ("judge.enabled=false",),
    "two-engines": ("rollout.pool.replicas=2", "rollout.pool.cpus=0.2"),
    "staleness-1": ("run.staleness=1",),
}
#: Compiled code is traced anew for each shape; a short run would measure that.
UNCOMPILED = ("learner.compile=false", "rollout.enforce_eager=true")


def runs() -> dict[str, Sequence[str]]:
    """What each run changes in the config, by folder name and in order.

    A base run, which changes nothing, comes before and after every two shapes: the speed of a shared
    machine may halve within the hour, and each shape is predicted from the base runs around it.
    """
    ordered: list[tuple[str, Sequence[str]]] = []
    for number, shape in enumerate(SHAPES.items()):
        if number % 2 == 0:
            ordered.append(("base", ()))
        ordered.append(shape)
    ordered.append(("base", ()))
    return {f"{number:02}-{name}": said for number, (name, said) in enumerate(ordered)}


@dataclass(frozen=True)
class Comparison:
    """A run, and the seconds predicted for it by phase (names of `Measured.errors`).

    A base run is compared with nothing: its prediction is empty.
    """

    shape: str
    run: Measured
    predicted: Mapping[str, float]

    @property
    def step_error(self) -> float:
        """(predicted - measured) / measured of a whole step."""
        return self.predicted["step"] / self.run.step_s - 1


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


def done(folder: Path) -> bool:
    """Whether `measure` has finished there."""
    return (folder / "config.yaml").exists()


def compare(out: Path, names: Sequence[str], nodes: Cluster, speeds: Speeds) -> list[Comparison]:
    """Those of the runs (`runs`) that are in `out`, in order.

    A shape is predicted with `speeds` fitted to the last base run before it, and with those fitted to
    the first one after it: the mean counts. Without both it is left out. Raises `PlanError` for a
    folder that is no such run.
    """
    there = {name: read_run(out / name) for name in names if done(out / name)}
    bases = [name for name in names if name.endswith("-base")]

    def predict(run: Measured, known: Speeds) -> Forecast:
        architecture = read_architecture(run.config.model.path)
        return forecast(Setting(run.config, architecture, nodes, known, run.load))

    compared = []
    for name, run in there.items():
        shape = name.split("-", 1)[1]
        if name in bases:
            compared.append(Comparison(shape, run, {}))
            continue
        after = bisect(bases, name)
        around = [there[base] for base in bases[after - 1 : after + 1] if base in there]
        if len(around) < 2:
            continue
        both = [
            run.errors(predict(run, calibrated(speeds, base, predict(base, speeds))))
            for base in around
        ]
        mean = {phase: fmean(errors[phase][1] for errors in both) for phase in both[0]}
        compared.append(Comparison(shape, run, mean))
    return compared


def summary(compared: Sequence[Comparison]) -> str:
    """How far predicted steps were off, and how far the machine's own speed went."""
    off = [abs(c.step_error) for c in compared if c.predicted]
    if not off:
        return "Nothing was predicted: a shape needs the base runs before and after it."
    base = [c.run.step_s for c in compared if c.shape == "base"]
    return (
        f"Off by {median(off):.0%} in the median of {len(off)} predicted steps, {max(off):.0%} at"
        f" worst. The base run, made {len(base)} times, took {min(base):.1f} to {max(base):.1f} s a"
        " step."
    )
