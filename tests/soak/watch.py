"""What a run holds while it goes on - memory and file handles of each of its processes, Ray's object
store, seconds per step - whether that stays flat, and a page that shows it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import psutil
from run_cluster import cluster_of

from repo_ray.evaluation.charts import Series, line_chart
from repo_ray.evaluation.charts import __file__ as charts_file
from repo_ray.training.metrics import read_metrics

MIB = 2**20
#: What the second half of a run may hold more than the quarter before it: a share, and MiB of memory
#: that allocators and Ray's own bounded logs take their time for.
SHARE, MEMORY_MIB, HANDLES, STORE_MIB = 0.05, 24.0, 8, 8.0
#: Steps may be slower by that share: other programs run on the machine.
STEP_SHARE = 0.35

Curve = list[tuple[float, float]]


@dataclass
class Watched:
    """Curves over seconds (of steps: over steps)."""

    memory_mib: dict[str, Curve] = field(default_factory=lambda: defaultdict(list))
    handles: dict[str, Curve] = field(default_factory=lambda: defaultdict(list))
    store_mib: Curve = field(default_factory=list)
    step_s: Curve = field(default_factory=list)


def watch(process: subprocess.Popen[bytes], run: Path, every_s: float) -> Watched:
    """Follows a run's process and all below it until it ends."""
    found, began = Watched(), time.monotonic()
    targets: list[str] = []
    names: dict[int, str] = {}
    while process.poll() is None:
        now = time.monotonic() - began
        for each in _tree(process.pid):
            try:
                root = each.pid == process.pid
                name = names.get(each.pid) or ("driver" if root else _name(each))
                if not name:
                    continue
                names[each.pid] = name
                label = f"{name} ({each.pid})"
                found.memory_mib[label].append((now, each.memory_info().rss / MIB))
                found.handles[label].append((now, float(each.num_fds())))
            except psutil.Error:  # it has just ended
                continue
        if not targets and (run / "metrics.jsonl").is_file():
            targets = cluster_of(run).targets
        with suppress(OSError):  # the run has just ended
            if targets:
                found.store_mib.append((now, sum(map(_object_store, targets)) / MIB))
        time.sleep(every_s)
    phases = ("time/collect_s", "time/update_s", "time/push_s")
    found.step_s = [(row["step"], sum(row[p] for p in phases)) for row in read_metrics(run)]
    return found


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    """Empty for a worker that has no task yet and for what lives for a moment."""
    line = " ".join(process.cmdline())
    if match := re.match(r"ray::(\w+)", line):
        return "" if match[1] == "IDLE" else match[1]
    for part in ("gcs_server", "raylet", "VLLM::EngineCore", "dashboard.py"):
        if part in line.split(" --")[0]:
            return part
    return "rule sandbox" if "sandbox_child" in line else ""


def _object_store(target: str) -> float:
    """Bytes in use by objects, on the node that exports there."""
    with urlopen(f"http://{target}/metrics", timeout=10) as response:
        text = response.read().decode()
    lines = re.findall(r"^ray_object_store_memory\{[^}]*\} (\S+)$", text, re.MULTILINE)
    return sum(map(float, lines))


def growth(found: Watched) -> list[str]:
    """What did not stay flat, as sentences; empty: all did.

    The median of the last quarter against that of the second one: what starts and warms up is over
    by then. Processes that did not live through both are not judged.
    """
    last = max((t for curve in found.memory_mib.values() for t, _ in curve), default=0.0)
    faults = []
    for unit, curves, slack in (
        ("MiB", found.memory_mib, MEMORY_MIB),
        ("file handles", found.handles, HANDLES),
        ("MiB in the object store", {"Ray": found.store_mib}, STORE_MIB),
    ):
        for name, curve in curves.items():
            before, after = _quarters(curve, last)
            if before is not None and after is not None and after > before * (1 + SHARE) + slack:
                faults.append(
                    f"{name}: {before:.0f} {unit} in the second quarter, {after:.0f} in the last"
                )
    steps = max((n for n, _ in found.step_s), default=0.0)
    before, after = _quarters(found.step_s, steps)
    if before is None or after is None:
        faults.append("no steps")
    elif after > before * (1 + STEP_SHARE):
        faults.append(f"steps: {before:.3f} s in the second quarter, {after:.3f} s in the last")
    return faults


def _quarters(curve: Curve, last: float) -> tuple[float | None, float | None]:
    second = [y for x, y in curve if last / 4 < x <= last / 2]
    fourth = [y for x, y in curve if x > last * 3 / 4]
    return (median(second) if second else None), (median(fourth) if fourth else None)


def page(title: str, found: Watched, faults: Sequence[str]) -> str:
    """The curves as one HTML page that needs nothing else."""

    def charts(curves: Mapping[str, Curve]) -> str:
        return "".join(
            f"<figure>{line_chart([Series(name, curve)], name)}<figcaption>{name}</figcaption></figure>"
            for name, curve in sorted(curves.items())
            if len(curve) > 2
        )

    style = Path(charts_file).with_name("report.css").read_text()
    verdict = "; ".join(faults) or "everything stayed flat"
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}"
        "main{display:flex;flex-wrap:wrap;gap:1rem}figure{width:360px;margin:0}</style>"
        f"<h1>{title}</h1><p>{len(found.step_s)} steps; {verdict}.</p>"
        f"<h2>Seconds per step</h2><main>{charts({'step': found.step_s})}</main>"
        f"<h2>Resident memory over seconds, MiB</h2><main>{charts(found.memory_mib)}</main>"
        f"<h2>Open file handles over seconds</h2><main>{charts(found.handles)}</main>"
        f"<h2>Ray's object store over seconds, MiB</h2><main>{charts({'objects': found.store_mib})}</main>"
    )
