"""`comparison.html`: one self-contained page with the table, the differences and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from repo_ray.comparison.table import COSTS, agreement_cell, cost_cells, headline, show
from repo_ray.evaluation import charts
from repo_ray.evaluation.hacking import SOURCES
from repo_ray.evaluation.measures import MEASURES
from repo_ray.evaluation.negotiations import NEGOTIATION_MEASURES

#: What is drawn over the training steps: key of a curve's points, title, note.
CURVES = (
    ("gold_score", "Gold score", "of the replies that the step trained on; never a reward"),
    ("reward", "Training reward", "each method's own: not comparable between methods"),
    ("tokens", "Reply length", "tokens per reply"),
)
#: Steps at which the paper sees its curve change: early gains to 30, exploration to 100, then
#: convergence (190 steps in all).
PAPER_PHASES = (30.0, 100.0)


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the page from the content of `comparison.json`."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([here, Path(charts.__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    specs, talks = (
        [s for s in known if any(s.name in c["measures"] for c in content["columns"])]
        for known in (MEASURES, NEGOTIATION_MEASURES)
    )
    first = headline(content)
    reference = next(
        (c["title"] for c in content["columns"] if c["key"] == content["reference"]), None
    )
    page = environment.get_template("comparison.html.j2").render(
        content=content,
        reference=reference,
        headline=[s for s in first if s in specs],
        others=[s for s in specs if s not in first],
        negotiations=talks,
        sources=SOURCES,
        agreement_cell=agreement_cell,
        costs=COSTS,
        cost_cells=cost_cells,
        show=show,
        interval_bar=charts.interval_bar,
        bounds={s.name: _bound(content["columns"], s.name) for s in specs},
        curves=_curves(content["curves"]),
    )
    path.write_text(page, encoding="utf-8")


def _bound(columns: Sequence[Mapping[str, Any]], name: str) -> float:
    """The largest difference or interval end of a measure, so that bars share one scale."""
    found = [c["differences"][name] for c in columns if name in c["differences"]]
    return max((abs(d[k]) for d in found for k in ("low", "high", "value")), default=0.0)


def _curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    drawn = {name: points for name, points in curves.items() if points}
    last = max((points[-1]["step"] for points in drawn.values()), default=0.0)
    marks = [phase for phase in PAPER_PHASES if phase <= last]
    return [
        {
            "title": title,
            "note": note,
            "names": list(drawn),
            "svg": charts.line_chart(
                [
                    charts.Series(name, [(p["step"], p[key]) for p in points if key in p])
                    for name, points in drawn.items()
                ],
                title,
                marks,
            ),
        }
        for key, title, note in CURVES
        if any(key in p for points in drawn.values() for p in points)
    ]
