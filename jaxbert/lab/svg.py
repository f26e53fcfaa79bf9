"""Drawings of a report as HTML and SVG: they take the page's colours, and narrow with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from jaxbert.lab.statistics import Interval

STYLE = """
.forest{font-size:.85rem;margin:.6rem 0}
.forest>div{display:grid;grid-template-columns:13rem 1fr 16rem;gap:0 .7rem;align-items:center}
.forest svg{width:100%;height:1.25rem;display:block}.forest b{grid-column:1/-1;margin-top:.5rem}
.band{fill:var(--band)}.zero{stroke:var(--soft);stroke-width:1;vector-effect:non-scaling-stroke}
.bar{stroke:var(--ink);stroke-width:2;vector-effect:non-scaling-stroke}
.mean{stroke:var(--mark);stroke-width:4;vector-effect:non-scaling-stroke}
.curve{max-width:34rem;width:100%;height:auto}.curve text{font:10px system-ui,sans-serif;
fill:var(--ink)}.curve polyline{fill:none;stroke-width:1.8}.axis{stroke:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;font-size:.82rem}
.legend svg{width:1.8rem;height:.7rem;margin-right:.3rem}.legend line{stroke-width:2.5}
@media(max-width:640px){.forest>div{grid-template-columns:auto 1fr}
.forest svg{grid-column:1/-1;grid-row:2}.forest span:last-child{text-align:right}}
"""

# Okabe & Ito's colours for every kind of sight, with the page's own in place of black; a line is
# dashed another way each time round.
_COLOURS = (
    "#d55e00", "#cc79a7", "#999999", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "currentColor",
)  # fmt: skip
_DASHES = ("", "6 3", "2 2", "8 2 2 2")


class Row(NamedTuple):
    """A line of a forest plot: an effect with its interval, and what is said of it."""

    label: str
    interval: Interval
    note: str


def forest(rows: Sequence[Row], margin: float | None, title: str = "") -> str:
    """Effects with their intervals on one axis, and the margin as a band around zero.

    The axis ends where the widest interval does that is not wholly beyond ten margins; what lies
    further ends at the edge, and stands in numbers beside it.
    """
    if not rows:
        return ""
    reach = max(_reach(row.interval, margin) for row in rows) or 1.0
    lines = "".join(_forest_row(row, margin, 1.05 * reach) for row in rows)
    head = f"<b>{escape(title)}</b>" if title else ""
    return f"<div class=forest>{head}{lines}</div>"


def _reach(found: Interval, margin: float | None) -> float:
    ends = [found.mean, *(end for end in (found.low, found.high) if end is not None)]
    far = max(map(abs, ends))
    if margin is None:
        return far
    return 3 * margin if min(map(abs, ends)) > 10 * margin else max(far, 3 * margin)


def _forest_row(row: Row, margin: float | None, reach: float) -> str:
    place = lambda value: f"{100 * max(-1.0, min(1.0, value / reach)):.2f}"  # noqa: E731
    found, parts = row.interval, []
    if margin is not None:
        width = 2 * float(place(margin))
        parts.append(f"<rect class=band x=-{place(margin)} y=0 width={width:.2f} height=20 />")
    parts.append("<line class=zero x1=0 x2=0 y1=0 y2=20 />")
    if found.low is not None and found.high is not None:
        ends = f"x1={place(found.low)} x2={place(found.high)}"
        parts.append(f"<line class=bar {ends} y1=10 y2=10 />")
    parts.append(f"<line class=mean x1={place(found.mean)} x2={place(found.mean)} y1=4 y2=16 />")
    label, note = escape(row.label), escape(row.note)
    return (
        f"<div><span>{label}</span><svg viewBox='-100 0 200 20' preserveAspectRatio=none role=img "
        f"aria-label='{escape(row.label, quote=True)}: {escape(row.note, quote=True)}'>"
        f"{''.join(parts)}</svg><span>{note}</span></div>"
    )


def curves(lines: Mapping[str, Mapping[float, float]], x_name: str, y_name: str) -> str:
    """Lines over a logarithmic axis with their legend; '' without any point.

    Args:
      lines: {name: {x: y in percent}}.
      x_name, y_name: of the axes.
    """
    points = [(x, y) for line in lines.values() for x, y in line.items()]
    if not points:
        return ""
    xs, ys = sorted({math.log(x) for x, _ in points}), [y for _, y in points]
    left, right, top, bottom = 34, 352, 22, 176
    low, high = math.floor(min(ys)), math.ceil(max(ys))
    high = max(high, low + 1)
    width = (xs[-1] - xs[0]) or 1.0
    x_at = lambda x: left + 8 + (right - left - 16) * (math.log(x) - xs[0]) / width  # noqa: E731
    y_at = lambda y: bottom - (bottom - top) * (y - low) / (high - low)  # noqa: E731
    parts = [
        f"<line class=axis x1={left} x2={right} y1={bottom} y2={bottom} />",
        f"<line class=axis x1={left} x2={left} y1={top} y2={bottom} />",
        f"<text x={right} y={bottom + 26} text-anchor=end>{escape(x_name)}</text>",
        f"<text x=0 y=10>{escape(y_name)}</text>",
    ]
    parts += [
        f"<text x={x_at(x):.1f} y={bottom + 13} text-anchor=middle>{x:.2g}</text>"
        for x in sorted({x for x, _ in points})
    ]
    parts += [
        f"<text x={left - 4} y={y_at(y) + 3:.1f} text-anchor=end>{y:.0f}</text>"
        for y in (low, (low + high) / 2, high)
    ]
    legend = []
    for number, (name, line) in enumerate(lines.items()):
        stroke = _stroke(number)
        found = sorted(line.items())
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in found)
        parts.append(f"<polyline points='{path}' {stroke} />")
        if len(found) == 1:  # a line of one point is none
            x, y = x_at(found[0][0]), y_at(found[0][1])
            parts.append(f"<line x1={x - 3:.1f} x2={x + 3:.1f} y1={y:.1f} y2={y:.1f} {stroke} />")
        legend.append(
            f"<span><svg viewBox='0 0 30 8'><line x1=0 x2=30 y1=4 y2=4 {stroke} /></svg>"
            f"{escape(name)}</span>"
        )
    return (
        f"<svg class=curve viewBox='0 0 360 208' role=img aria-label='{escape(y_name, quote=True)} "
        f"by {escape(x_name, quote=True)}'>{''.join(parts)}</svg>"
        f"<div class=legend>{''.join(legend)}</div>"
    )


def _stroke(number: int) -> str:
    dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return f"stroke='{_COLOURS[number % len(_COLOURS)]}' stroke-dasharray='{dash}'"
