"""Which models are worth their cost: Pareto plots as PNG, and as one page with nothing to load.

A model is on the front if no other one is at least as good in both figures and better in one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nlpapp.errors import DataError
from nlpapp.evaluation.page import ENVIRONMENT, STYLE, write_page
from nlpapp.evaluation.plots import (
    DOTS_PER_INCH,
    GRID,
    INK,
    PALETTE,
    describe,
    format_number,
)

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 16, 52
"""Margins in pixels; names stand in a column at the right, where they cover no point."""
LETTER = 7
"""Pixels of a letter of a name, at most on average."""
ROW_HEIGHT = 15
"""Pixels between two names that would otherwise cover each other."""


@dataclass(frozen=True, kw_only=True)
class Trade:
    """Two figures of each model, one on each axis."""

    title: str
    x: str
    """Column of the horizontal axis, where less is better."""
    y: str
    """Column of the vertical axis."""
    more_is_better: bool = True
    """Whether more of ``y`` is better, as of an accuracy; less is, as of bytes, otherwise."""

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the rows that have both figures."""
        return [row for row in rows if row.get(self.x) is not None and row.get(self.y) is not None]

    def front(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Return for each of ``rows`` whether it is on the Pareto front."""
        sign = -1.0 if self.more_is_better else 1.0
        return pareto_front([(float(row[self.x]), sign * float(row[self.y])) for row in rows])


def usual_trades(rows: Sequence[Mapping[str, Any]]) -> list[Trade]:
    """Return what to draw of rows of `nlpapp benchmark`: accuracy beside each cost.

    Where no model has an accuracy, costs stand beside each other.
    """
    if any(row.get("accuracy") is not None for row in rows):
        costs = {"p50_ms": "latency", "bytes": "size on disk", "peak_mb": "memory"}
        return [
            Trade(title=f"Accuracy and {words}", x=column, y="accuracy")
            for column, words in costs.items()
        ]
    found = [
        Trade(title="Latency and size on disk", x="p50_ms", y="bytes", more_is_better=False),
        Trade(title="Latency and memory", x="p50_ms", y="peak_mb", more_is_better=False),
    ]
    speeds = dict.fromkeys(name for row in rows for name in row if "texts_per_second" in name)
    for column in list(speeds)[-1:]:  # the largest batch
        found.append(Trade(title="Size on disk and throughput", x="bytes", y=column))
    return found


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of the (cost, cost) are on the front; less is better in both."""
    return [
        not any(
            other[0] <= own[0] and other[1] <= own[1] and other != own
            # Of equals both stay: neither is better.
            for other in costs
        )
        for own in costs
    ]


def plot_pareto(rows: Sequence[Mapping[str, Any]], trade: Trade, *, output: Path) -> Path:
    """Draw one point for each row with its "name", and a line through the front, as PNG.

    Raises:
        DataError: no row has both figures.
    """
    rows, front = _drawn(rows, trade)
    scale = _Scale(rows, trade)
    figure = Figure(figsize=(8.4, 4.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x, y = scale.values()
    on = sorted((index for index, inside in enumerate(front) if inside), key=lambda i: x[i])
    axes.plot(x[on], y[on], "--", color="#8C959F", linewidth=1.3, drawstyle="steps-post", zorder=1)
    places = spread([down for _, down in scale.places], ROW_HEIGHT)
    for index, row in enumerate(rows):
        colour = PALETTE[index % len(PALETTE)]
        face = colour if front[index] else "white"
        axes.plot(x[index], y[index], "o", markersize=9, color=colour, markerfacecolor=face)
        height = 1 - (places[index] - TOP) / (HEIGHT - TOP - BOTTOM)
        axes.annotate(
            str(row["name"]),
            (x[index], y[index]),
            xytext=(1.03, height),
            textcoords=axes.transAxes,
            verticalalignment="center",
            fontsize=9,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "zorder": 1},
        )
    for name, line in (("x", axes.xaxis), ("y", axes.yaxis)):
        if scale.is_log[name]:
            {"x": axes.set_xscale, "y": axes.set_yscale}[name]("log")
        line.set_ticks(scale.ticks(name), [_tick(tick) for tick in scale.ticks(name)])
        line.set_ticks([], minor=True)
    axes.set_xlim(scale.low["x"], scale.high["x"])
    axes.set_ylim(scale.low["y"], scale.high["y"])
    axes.set_xlabel(scale.label("x"), color=INK)
    axes.set_ylabel(scale.label("y"), color=INK)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9.5)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=DOTS_PER_INCH, metadata={"Software": "nlpapp"})
    return output


def _drawn(
    rows: Sequence[Mapping[str, Any]], trade: Trade
) -> tuple[list[Mapping[str, Any]], list[bool]]:
    found = trade.rows(rows)
    if not found:
        raise DataError(f"no row has both {trade.x} and {trade.y}; nothing can be drawn.")
    return found, trade.front(found)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Return ``places`` moved apart, each as little as it takes, to be ``gap`` from the next."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in order:
        groups.append([index])
        centres.append(places[index])
        while len(groups) > 1 and (
            centres[-1] - centres[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2
        ):
            joined = groups[-2] + groups[-1]
            groups[-2:] = [joined]
            centres[-2:] = [sum(places[one] for one in joined) / len(joined)]
    moved = list(places)
    for group, centre in zip(groups, centres, strict=True):
        for rank, index in enumerate(group):
            moved[index] = centre + (rank - (len(group) - 1) / 2) * gap
    return moved


def _tick(value: float) -> str:
    """Return a number as an axis shows it: 200 k, 5 M, 0.01."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.3g}"


class _Scale:
    """Where the figures of rows lie on the page, and the ticks of both axes."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], trade: Trade) -> None:
        self.trade = trade
        self.numbers = {
            "x": np.array([float(row[trade.x]) for row in rows]),
            "y": np.array([float(row[trade.y]) for row in rows]),
        }
        self.is_log, self.low, self.high = {}, {}, {}
        for axis, values in self.numbers.items():
            low, high = float(values.min()), float(values.max())
            self.is_log[axis] = low > 0 and high / low >= 5
            if self.is_log[axis]:
                room = max(1.2, (high / low) ** 0.08)
                self.low[axis], self.high[axis] = low / room, high * room
            else:
                room = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
                self.low[axis], self.high[axis] = low - room, high + room
        self.places = [(self.across(x), self.down(y)) for x, y in zip(*self.values(), strict=True)]

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        return self.numbers["x"], self.numbers["y"]

    def label(self, axis: str) -> str:
        column = self.trade.x if axis == "x" else self.trade.y
        return describe(column) + (", log scale" if self.is_log[axis] else "")

    def across(self, value: float) -> float:
        return LEFT + self._share("x", value) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        return TOP + (1 - self._share("y", value)) * (HEIGHT - TOP - BOTTOM)

    def _share(self, axis: str, value: float) -> float:
        low, high = self.low[axis], self.high[axis]
        if self.is_log[axis]:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def ticks(self, axis: str) -> list[float]:
        low, high = self.low[axis], self.high[axis]
        if self.is_log[axis]:
            steps = (1, 2, 5) if high / low < 100 else (1,)
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            found = [step * 10.0**decade for decade in decades for step in steps]
        else:
            raw = (high - low) / 5
            size = 10.0 ** math.floor(math.log10(raw))
            step = min((m * size for m in (1, 2, 5, 10)), key=lambda width: abs(width - raw))
            found = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [tick for tick in found if low <= tick <= high]


def draw_pareto(rows: Sequence[Mapping[str, Any]], trade: Trade) -> Markup:
    """Return the plot as SVG; each point can be reached with the keyboard and says its figures.

    Raises:
        DataError: no row has both figures.
    """
    rows, front = _drawn(rows, trade)
    scale = _Scale(rows, trade)
    names = spread([down for _, down in scale.places], ROW_HEIGHT)
    points = []
    for index, row in enumerate(rows):
        said = [f"{describe(column)} {format_number(row[column])}" for column in (trade.x, trade.y)]
        said.append("on the front" if front[index] else "another is at least as good in both")
        across, down = scale.places[index]
        points.append(
            {
                "name": row["name"],
                "said": f"{row['name']}: {', '.join(said)}",
                "x": across,
                "y": down,
                "text_y": names[index],
                "colour": PALETTE[index % len(PALETTE)],
                "front": front[index],
            }
        )
    line = sorted((point["x"], point["y"]) for point in points if point["front"])
    path = f"M{line[0][0]:.1f} {line[0][1]:.1f}"
    path += "".join(f" H{across:.1f} V{down:.1f}" for across, down in line[1:])
    longest = max(len(str(point["name"])) for point in points)
    ticks = {axis: scale.ticks(axis) for axis in ("x", "y")}
    return Markup(
        DRAWING.render(
            width=max(WIDTH, WIDTH - RIGHT + 20 + LETTER * longest),
            height=HEIGHT,
            frame=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
            across=[(scale.across(tick), _tick(tick)) for tick in ticks["x"]],
            down=[(scale.down(tick), _tick(tick)) for tick in ticks["y"]],
            labels=(scale.label("x"), scale.label("y")),
            title=trade.title,
            points=points,
            path=path,
        )
    )


def write_pareto_page(
    path: Path,
    *,
    title: str,
    subtitle: str,
    rows: Sequence[Mapping[str, Any]],
    trades: Sequence[Trade],
    grid: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write one page with a plot for each of ``trades`` and tables of all figures; return ``path``.

    Args:
        path: the HTML file; it is written beside and renamed.
        title: of the page.
        subtitle: what the figures are and where they were made.
        rows: a dict for each model with "name" and the columns of the trades.
        trades: what is drawn; those for which no row has both figures are left out.
        grid: rows of a second table.
    """
    drawn = [trade for trade in trades if trade.rows(rows)]
    body = BODY.render(
        plots=[(trade.title, draw_pareto(rows, trade)) for trade in drawn],
        tables=[
            (name, _table(table))
            for name, table in (("All figures", rows), ("By threads and length", grid))
            if table
        ],
    )
    return write_page(path, title=title, body=body, subtitle=subtitle, style=STYLE + PLOT_STYLE)


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {
        "columns": [describe(name) for name in columns],
        "rows": [
            [(isinstance(row.get(name), int | float), _cell(row.get(name))) for name in columns]
            for row in rows
        ],
    }


def _cell(value: object) -> str:
    return "\N{EN DASH}" if value is None else format_number(value)


PLOT_STYLE = """
svg { display: block; width: 100%; height: auto; max-width: 760px; }
svg text { fill: var(--ink); font-size: 12px; }
svg .axis { stroke: var(--soft); fill: none; }
svg .line { stroke: var(--line); }
svg .front { stroke: var(--soft); stroke-dasharray: 5 4; fill: none; }
svg .open { fill: var(--paper); }
svg a:focus { outline: none; }
svg a:focus circle, svg a:hover circle { r: 8px; stroke-width: 4; }
svg a:focus text { font-weight: 700; text-decoration: underline; }
"""

DRAWING = ENVIRONMENT.from_string(
    """<svg viewBox="0 0 {{ width }} {{ height }}" role="group" aria-label="{{ title }}">
{% for place, text in across %}
<line class="line" x1="{{ '%.1f' % place }}" x2="{{ '%.1f' % place }}" y1="{{ frame[1] }}" \
y2="{{ frame[3] }}"/>
<text x="{{ '%.1f' % place }}" y="{{ frame[3] + 17 }}" text-anchor="middle">{{ text }}</text>
{% endfor %}
{% for place, text in down %}
<line class="line" x1="{{ frame[0] }}" x2="{{ frame[2] }}" y1="{{ '%.1f' % place }}" \
y2="{{ '%.1f' % place }}"/>
<text x="{{ frame[0] - 7 }}" y="{{ '%.1f' % (place + 4) }}" text-anchor="end">{{ text }}</text>
{% endfor %}
<path class="axis" d="M{{ frame[0] }} {{ frame[1] }} V{{ frame[3] }} H{{ frame[2] }}"/>
<text x="{{ (frame[0] + frame[2]) / 2 }}" y="{{ height - 12 }}" text-anchor="middle">\
{{ labels[0] }}</text>
<text transform="translate(13 {{ (frame[1] + frame[3]) / 2 }}) rotate(-90)" text-anchor="middle">\
{{ labels[1] }}</text>
<path class="front" d="{{ path }}"/>
{% for point in points %}
<path d="M{{ '%.1f' % point.x }} {{ '%.1f' % point.y }} L{{ frame[2] + 10 }} \
{{ '%.1f' % point.text_y }}" stroke="{{ point.colour }}" stroke-width="0.8" fill="none"/>
{% endfor %}
{% for point in points %}
<a tabindex="0" role="img" aria-label="{{ point.said }}"><title>{{ point.said }}</title>
<circle{% if not point.front %} class="open"{% endif %} cx="{{ '%.1f' % point.x }}" \
cy="{{ '%.1f' % point.y }}" r="6" stroke="{{ point.colour }}" stroke-width="2.5"\
{% if point.front %} fill="{{ point.colour }}"{% endif %}/>
<text x="{{ frame[2] + 14 }}" y="{{ '%.1f' % (point.text_y + 4) }}">{{ point.name }}\
</text></a>
{% endfor %}
</svg>"""
)
BODY = ENVIRONMENT.from_string(
    """<main>
{% for title, drawing in plots %}
<section>
<h2>{{ title }}</h2>
<p>Filled points are on the front: no other model is at least as good in both and better in one.</p>
{{ drawing }}
</section>
{% endfor %}
{% for name, table in tables %}
<section>
<h2>{{ name }}</h2>
<div class="wide" tabindex="0">
<table>
<thead><tr>
{% for column in table.columns %}
<th scope="col">{{ column }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for numeric, value in row %}
<td{% if numeric %} class="number"{% endif %}>{{ value }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
</section>
{% endfor %}
</main>"""
)
