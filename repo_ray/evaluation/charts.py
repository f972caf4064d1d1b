"""Line charts as inline SVG: no script, no external file, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its label and (x, y) points; non-finite points leave a gap."""

    label: str
    points: Sequence[tuple[float, float]]


def line_chart(
    series: Sequence[Series],
    title: str,
    marks: Sequence[float] = (),
    *,
    sizes: bool = False,
    log_x: bool = False,
) -> Markup:
    """The lines, faint where raw and strong as a running mean, with axes; `title` for readers.

    Colours come from CSS classes `c1`, `c2`, ... in the order of `series`. At every x of `marks`
    that the lines reach stands a vertical line of class `mark`. Of a few `sizes` rather than steps
    every point is a dot, and y begins at 0. `log_x` (x > 0) has the same space between doublings
    and a tick at every x.
    """
    clean = [[(x, y) for x, y in s.points if math.isfinite(x) and math.isfinite(y)] for s in series]
    xs = [x for points in clean for x, _ in points]
    ys = [y for points in clean for _, y in points]
    if not xs:
        return Markup('<p class="none">no data</p>')
    y_ticks = ticks(min(0.0, *ys) if sizes else min(ys), max(ys), 4)
    x_ticks = sorted(set(xs)) if log_x else ticks(min(xs), max(xs), 5)
    y_low, y_high = min(*ys, *y_ticks), max(*ys, *y_ticks)
    x_low, x_high = min(xs), max(xs)
    scale = math.log2 if log_x else float

    def at_x(x: float) -> float:
        low, high = scale(x_low), scale(x_high)
        share = (scale(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    ]
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_pair("y", at_y(y))}/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{at_y(y) + 3.5:.1f}" text-anchor="end">{_number(y)}</text>'
        )
    parts += [
        f'<text class="tick" x="{at_x(x):.1f}" y="{HEIGHT - 7}" text-anchor="middle">{_number(x)}</text>'
        for x in x_ticks
        if x_low <= x <= x_high and x == int(x)
    ]
    if y_low < 0 < y_high:
        parts.append(f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_pair("y", at_y(0))}/>')
    parts += [
        f'<line class="mark" {_pair("x", at_x(x))} y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        for x in marks
        if x_low <= x <= x_high
    ]
    for number, points in enumerate(clean, start=1):
        if sizes or len(points) == 1:
            parts += [
                f'<circle class="c{number} dot" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3"/>'
                for x, y in points
            ]
        if len(points) == 1:
            continue
        smooth = running_mean(points)
        for kind, line in (("raw", points), ("mean", smooth)):
            path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line)
            parts.append(f'<polyline class="c{number} {kind}" points="{path}"/>')
    return Markup("".join([*parts, "</svg>"]))


def interval_bar(low: float, value: float, high: float, bound: float) -> Markup:
    """A difference with its interval around a zero line; the bar spans [-bound, bound]."""

    def at(v: float) -> float:
        return 60 + 56 * max(-1.0, min(1.0, v / bound if bound else 0.0))

    return Markup(
        '<svg class="interval" viewBox="0 0 120 16" aria-hidden="true">'
        '<line class="zero" x1="60" x2="60" y1="1" y2="15"/>'
        f'<line class="span" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="8" y2="8"/>'
        f'<circle class="point" cx="{at(value):.1f}" cy="8" r="3.2"/></svg>'
    )


def running_mean(
    points: Sequence[tuple[float, float]], share: float = 0.12
) -> list[tuple[float, float]]:
    """Centred mean over `share` of the points (odd window, shorter at the ends)."""
    half = max(1, round(len(points) * share / 2)) if len(points) >= 8 else 0
    result = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        window = [y for _, y in points[i - reach : i + reach + 1]]
        result.append((x, sum(window) / len(window)))
    return result


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that span [low, high]."""
    if low == high:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _pair(axis: str, value: float) -> str:
    return f'{axis}1="{value:.1f}" {axis}2="{value:.1f}"'


def _number(value: float) -> str:
    if value and (abs(value) < 0.001 or abs(value) >= 100000):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
