"""Figures as PNG files: training curves, confusion matrices, trade-offs and bars.

Every figure is drawn on its own canvas, without pyplot, so nothing global is changed and nothing
stays in memory. The colours are those of Okabe and Ito (2008), which colour-blind readers can tell
apart. matplotlib is imported when the first figure is drawn, so that training starts sooner.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlpapp.disk import written_whole
from nlpapp.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
INK = "#24292F"
GRID = "#D8DEE4"
DOTS_PER_INCH = 150
SMOOTH_ABOVE = 80
"""Curves with more points than this are drawn faintly, with their moving average on top."""

Curve = tuple[np.ndarray, np.ndarray]
"""Steps and values, each of shape (number of points,)."""
NOT_METRICS = frozenset({"step", "split", "seconds", "epoch", "degenerate"})
UNITS = {"ms": "ms", "kb": "kB", "mb": "MB", "gb": "GB", "seconds": "s", "percent": "%"}
FAMILY_ORDER = ("loss", "accuracy", "f1", "correlation", "perplexity", "bits", "learning_rate")
WORDS = {
    "lm": "LM",
    "f1": "F1",
    "onnx": "ONNX",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    "bpc": "bits per character",
}


def describe(name: str) -> str:
    """Return the words for a snake_case column or metric: ``latency_ms`` -> ``latency (ms)``."""
    *words, last = name.split("_")
    if words and last in UNITS and words[-1] != "per" and not words[-1].isdigit():
        return f"{' '.join(WORDS.get(word, word) for word in words)} ({UNITS[last]})"
    return " ".join(WORDS.get(word, word) for word in [*words, last])


def read_records(metrics_jsonl: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl.

    A broken last line, left by a run that was killed while writing, is skipped.

    Raises:
        DataError: if any other line is not a JSON object, with its number.
    """
    lines = metrics_jsonl.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif number < len(lines):
            raise DataError(
                f"{metrics_jsonl}, line {number}: expected a JSON object such as "
                f'{{"step": 10, "split": "train", "loss": 0.5}}, found {line[:60]!r}. '
                "Delete the line, or repeat the run."
            )
    return records


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Return metric -> split -> (steps, values), in the order of steps.

    Values that are not finite numbers are left out. A step logged twice, before and after a resume,
    keeps its last value.
    """
    points: dict[str, dict[str, dict[float, float]]] = {}
    for record in records:
        step = record.get("step")
        if not isinstance(step, (int, float)):
            continue
        for name, value in record.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and name not in NOT_METRICS and math.isfinite(value):
                split = str(record.get("split", "train"))
                points.setdefault(name, {}).setdefault(split, {})[step] = value
    return {
        name: {split: _sorted_arrays(values) for split, values in splits.items()}
        for name, splits in points.items()
    }


def _sorted_arrays(values: Mapping[float, float]) -> Curve:
    steps = sorted(values)
    return np.array(steps, dtype=float), np.array([values[step] for step in steps], dtype=float)


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Return the centred mean of ``width`` neighbours; at the ends, of those that exist."""
    kernel = np.ones(width)
    total = np.convolve(values, kernel, mode="same")
    number = np.convolve(np.ones_like(values), kernel, mode="same")
    return total / number


def is_noisy(values: np.ndarray) -> bool:
    """Say whether a curve goes up and down all the time; a schedule is smooth as it stands."""
    turns = np.diff(np.sign(np.diff(values))) != 0
    return bool(turns.mean() > 0.2)


def metric_families(names: Sequence[str]) -> dict[str, list[str]]:
    """Group the metrics that share a scale: all losses, all accuracies; then order the groups."""
    families: dict[str, list[str]] = {}
    for name in names:
        plain = re.sub("^(valid|dev|test)_", "", name)
        ending = name.rpartition("_")[2]
        families.setdefault(ending if ending in ("loss", "accuracy") else plain, []).append(name)

    def position(family: str) -> int:
        return next((i for i, word in enumerate(FAMILY_ORDER) if word in family), len(FAMILY_ORDER))

    return {family: families[family] for family in sorted(families, key=position)}


def plot_curves(metrics_jsonl: Path, output: Path) -> Path | None:
    """Draw every metric of a run against its step, one panel for each family of metrics.

    Training is a line, evaluation a line with points. Returns ``output``, or None, with nothing
    written, if the run has logged no number.
    """
    found = curves(read_records(metrics_jsonl))
    if not found:
        return None
    families = metric_families(list(found))
    figure, panels = _grid(len(families))
    for axes, (family, names) in zip(panels, families.items(), strict=True):
        for order, name in enumerate(sorted(names, key=len)):
            splits = found[name]
            for split_order, split in enumerate(sorted(splits, key=lambda split: split != "train")):
                # With one metric in the panel the colour tells the splits apart, else the metrics.
                colour = PALETTE[(order if len(names) > 1 else split_order) % len(PALETTE)]
                label = split if len(names) == 1 else f"{describe(name)}, {split}"
                _curve(axes, *splits[split], colour=colour, label=label, marked=split != "train")
        _finish_panel(axes, describe(family))
    return save_figure(figure, output)


def plot_run_comparison(runs: Mapping[str, Path], output: Path) -> Path | None:
    """Overlay the curves of several runs, given as name -> metrics.jsonl; a run has one colour.

    A metric is drawn when at least two runs have it, from the evaluation split where there is one.
    """
    found = {run: curves(read_records(path)) for run, path in runs.items()}
    names = [name for logged in found.values() for name in logged]
    shared = sorted({name for name in names if names.count(name) > 1}, key=names.index)
    if not shared:
        return None
    ordered = [name for family in metric_families(shared).values() for name in family]
    figure, panels = _grid(len(ordered))
    for axes, name in zip(panels, ordered, strict=True):
        splits = {split for logged in found.values() for split in logged.get(name, {})}
        evaluated = splits != {"train"}
        for order, (run, logged) in enumerate(found.items()):
            for split, (steps, values) in logged.get(name, {}).items():
                if evaluated == (split != "train"):
                    colour = PALETTE[order % len(PALETTE)]
                    _curve(axes, steps, values, colour=colour, label=run, marked=evaluated)
        _finish_panel(axes, f"{describe(name)}, {'evaluation' if evaluated else 'train'}")
    return save_figure(figure, output)


def plot_confusion(matrix: np.ndarray, labels: Sequence[str], output: Path) -> Path:
    """Draw a confusion matrix of shape (C, C), rows true and columns predicted.

    The colour is the share of the row, so that rare classes can be read as well as common ones; the
    text is the count, and up to 12 classes also the share in percent.
    """
    matrix = np.asarray(matrix)
    classes = len(labels)
    if matrix.shape != (classes, classes):
        raise ValueError(f"the matrix has shape {matrix.shape}, but there are {classes} labels")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    side = min(max(3.4, 0.85 * classes), 14.0)
    figure = blank_figure(side + 1.9, side + 0.9)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    size = 10.5 if classes <= 6 else max(5.5, 11 - 0.3 * classes)
    for row in range(classes) if classes <= 30 else ():
        for column in range(classes):
            text = f"{matrix[row, column]:,}"
            if classes <= 12:
                text += f"\n{shares[row, column]:.0%}"
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    turned = classes > 2 and max(len(label) for label in labels) > 6
    direction: dict[str, Any] = {"rotation": 40, "ha": "right"} if turned else {}
    axes.set_xticks(range(classes), labels, **direction)
    axes.set_yticks(range(classes), labels)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted label", color=INK)
    axes.set_ylabel("true label", color=INK)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03)
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    bar.set_label("share of the true label's examples", color=INK)
    bar.outline.set_visible(False)
    return save_figure(figure, output)


def plot_trade_off(
    rows: Sequence[Mapping[str, Any]], *, x: str, y: str, label: str, output: Path
) -> Path:
    """Draw one point for each row at columns ``x`` and ``y``, with its ``label`` beside it.

    The x axis is logarithmic if all of its values are positive. Rows in which either column is None
    are left out. Units come from the column's name (``latency_ms``, ``size_mb``).
    """
    rows = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    figure = blank_figure(7.2, 4.6)
    axes = figure.add_subplot()
    horizontal = np.array([float(row[x]) for row in rows])
    vertical = np.array([float(row[y]) for row in rows])
    for order in range(len(rows)):
        colour = PALETTE[order % len(PALETTE)]
        axes.plot(horizontal[order], vertical[order], "o", markersize=10, color=colour)
    if len(rows) and (horizontal > 0).all():
        axes.set_xscale("log")
        span = horizontal.max() / horizontal.min()
        left, right = max(1.3, span**0.2), max(1.6, span**0.35)
        axes.set_xlim(horizontal.min() / left, horizontal.max() * right)
        if span < 100:
            _plain_log_ticks(axes)
    axes.margins(y=0.2)
    axes.set_xlabel(describe(x) + (", log scale" if axes.get_xscale() == "log" else ""), color=INK)
    axes.set_ylabel(describe(y), color=INK)
    _style(axes)
    figure.canvas.draw()
    _name_points(axes, horizontal, vertical, [str(row[label]) for row in rows])
    return save_figure(figure, output)


def plot_bars(values: Mapping[str, float], output: Path, *, quantity: str) -> Path:
    """Draw one horizontal bar for each name, with its value beside it."""
    figure = blank_figure(7.2, 0.42 * len(values) + 1.2)
    axes = figure.add_subplot()
    names = list(values)
    bars = axes.barh(names, [values[name] for name in names], color=PALETTE[0], height=0.62)
    axes.bar_label(bars, labels=[f"{values[name]:.3g}" for name in names], padding=4, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel(describe(quantity), color=INK)
    _style(axes, grid="x")
    return save_figure(figure, output)


def format_number(value: object) -> str:
    """Return a number as people write it: 12,345 for counts, else four significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    if number == 0:
        return "0"
    if abs(number) < 1e-3 or abs(number) >= 1e9:
        return f"{number:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if number == int(number) and "." in text else text


def blank_figure(width: float, height: float) -> "Figure":
    """Return a figure to draw on, ``width`` x ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _grid(number: int) -> "tuple[Figure, list[Axes]]":
    columns = 1 if number == 1 else 2
    rows = math.ceil(number / columns)
    figure = blank_figure(7.2 if columns == 1 else 10.4, 3.3 * rows if columns == 2 else 4.0)
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(number)]
    return figure, panels


def _curve(
    axes: "Axes", steps: np.ndarray, values: np.ndarray, *, colour: str, label: str, marked: bool
) -> None:
    if marked or len(steps) == 1:
        axes.plot(steps, values, "--o", color=colour, label=label, linewidth=1.6, markersize=4.5)
    elif len(steps) <= SMOOTH_ABOVE or not is_noisy(values):
        axes.plot(steps, values, color=colour, label=label, linewidth=1.8)
    else:
        width = max(5, len(steps) // 40) | 1
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1.0)
        averaged = f"{label} (mean of {width} points)"
        axes.plot(steps, moving_average(values, width), color=colour, label=averaged, linewidth=1.8)


def _finish_panel(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xlabel("optimizer step", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    # A loss that falls a hundredfold would be a flat line after its first steps.
    falls_far = values.min() > 0 and values.max() / values.min() > 100
    if falls_far and re.search("loss|perplexity", title):
        axes.set_yscale("log")
    labels = axes.get_legend_handles_labels()[1]
    if labels != ["train"]:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    _style(axes)


def _style(axes: "Axes", grid: str = "both") -> None:
    axes.grid(True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8C959F")
    axes.tick_params(colors=INK, labelsize=9.5)


def _plain_log_ticks(axes: "Axes") -> None:
    # A logarithmic axis over less than two decades has hardly a power of ten to label.
    low, high = axes.get_xlim()
    steps = [1, 2, 5] if high / low > 8 else [1, 1.5, 2, 3, 4, 5, 6, 8]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axes.minorticks_off()


PLACES = (
    (11, 0, "left", "center"),
    (-11, 0, "right", "center"),
    (0, 11, "center", "bottom"),
    (0, -11, "center", "top"),
    (9, 11, "left", "bottom"),
    (9, -11, "left", "top"),
    (-9, 11, "right", "bottom"),
    (-9, -11, "right", "top"),
)
"""Where a name may stand beside its point, best first: points right, points up, alignments."""


def _name_points(axes: "Axes", x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write each name beside its point, where it covers neither a point nor another name."""
    from matplotlib.transforms import Bbox

    frame = axes.get_window_extent()
    pixels = axes.transData.transform(np.column_stack([x, y]))
    radius = 8 * axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    taken = [Bbox.from_extents(*(point - radius), *(point + radius)) for point in pixels]
    for order, name in enumerate(names):
        others = [box for index, box in enumerate(taken) if index != order]
        # Where no place is free, the first one again: a covered name is better than none.
        for tried, (right, up, side, height) in enumerate((*PLACES, PLACES[0])):
            text = axes.annotate(
                name,
                (x[order], y[order]),
                xytext=(right, up),
                textcoords="offset points",
                horizontalalignment=side,
                verticalalignment=height,
                fontsize=10,
                color=INK,
            )
            box = text.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
            if tried == len(PLACES) or (inside and not box.count_overlaps(others)):
                taken.append(box)
                break
            text.remove()


def save_figure(figure: "Figure", output: Path) -> Path:
    """Write ``figure`` as a PNG; returns ``output``."""
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # A run draws its curves again and again while somebody looks at them.
    with written_whole(output) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "nlpapp"})
    return output
