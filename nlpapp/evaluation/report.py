"""Reports as one self-contained HTML page: no script, and nothing loaded from anywhere else."""

import base64
import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup, escape

from nlpapp import __version__
from nlpapp.evaluation.plots import (
    DOTS_PER_INCH,
    describe,
    format_number,
    plot_confusion,
    plot_curves,
)
from nlpapp.evaluation.run_record import Figure, RunRecord, figures, is_quality, read_run

PREDICTIONS = "predictions-dev.tsv"
"""Columns ``label`` (the true one), ``prediction``, and ``probability_<name>`` of each class."""
MOST_CLASSES = 60
PLOT_TITLES = {
    "curves": "Training curves",
    "confusion": "Confusion matrix",
    "trade_off": "Size, speed and accuracy",
}
PLOT_NOTES = {
    "curves": "Solid lines are training, dashed lines with points evaluations on data held out.",
    "confusion": "Of the rows that belong in a class (left), how many were put where (below).",
}


@dataclass(frozen=True)
class Section:
    """One part of a report; what is not given is not shown."""

    title: str
    text: str = ""
    """Plain text: an empty line starts a paragraph, `backquotes` set code. HTML is escaped."""
    table: list[dict[str, object]] | None = None
    """One dict for each row, column name -> value; numbers are right-aligned, None is a dash."""
    image: Path | None = None
    """A PNG file; its bytes become part of the page."""
    code: str | None = None
    """Text shown as it is, in a box, such as a command."""
    figures: Mapping[str, object] | None = None
    """The few numbers to see first, name -> value, shown large."""
    exact_titles: bool = False
    """Show the names of columns and figures as they are, not as words with units."""


def write_report(
    path: Path, *, title: str, sections: Sequence[Section], subtitle: str = ""
) -> Path:
    """Write one HTML page with ``sections`` below ``title``; return ``path``.

    The page is written beside ``path`` and renamed, so an interrupted write leaves the old one.
    """
    path = Path(path)
    page = TEMPLATE.render(
        title=title,
        subtitle=subtitle,
        style=Markup(STYLE),
        version=__version__,
        sections=[_prepared(section, order) for order, section in enumerate(sections, start=1)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def write_run_report(run_folder: Path, *, metrics: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into the folder of a run, from the files that the run has left there.

    Args:
        run_folder: the output_dir of a command.
        metrics: the run's final figures, if metrics.json is not written yet.

    Raises:
        DataError: the folder holds no run.
    """
    run = read_run(run_folder, metrics=metrics)
    return write_report(
        run.path / "report.html",
        title=run_title(run),
        subtitle=run_subtitle(run),
        sections=run_sections(run, plots=run.path / "plots"),
    )


def run_title(run: RunRecord) -> str:
    """Return the heading of a run's report."""
    name = run.path.absolute().name
    return run.command if name == run.command else f"{run.command}: {name}"


def run_subtitle(run: RunRecord) -> str:
    """Return one line saying when, on what and from which commit a run was made."""
    environment = run.environment
    facts = [
        f"started {environment['started']}" if environment.get("started") else None,
        environment.get("device"),
        f"{environment['world_size']} processes" if environment.get("world_size", 1) > 1 else None,
        f"seed {environment['seed']}" if "seed" in environment else None,
        f"commit {environment['git_commit'][:10]}" if environment.get("git_commit") else None,
    ]
    return ", ".join(str(fact) for fact in facts if fact)


def run_sections(run: RunRecord, *, plots: Path) -> list[Section]:
    """Return the sections of one run's report.

    The plots that the run lacks, or that are older than its figures, are drawn into ``plots``.
    """
    kept = run.path / "plots"
    if _is_newer(run.metrics_jsonl, kept / "curves.png"):
        plot_curves(run.metrics_jsonl, plots / "curves.png")
    if _is_newer(run.path / PREDICTIONS, kept / "confusion.png"):
        _plot_predictions(run.path / PREDICTIONS, plots / "confusion.png")
    sections = [_figures_section(run)]
    found = {path.stem: path for folder in (kept, plots) for path in sorted(folder.glob("*.png"))}
    ordered = [name for name in PLOT_TITLES if name in found]
    for name in ordered + [name for name in found if name not in PLOT_TITLES]:
        title = PLOT_TITLES.get(name, describe(name.replace("-", "_")).capitalize())
        sections.append(Section(title, PLOT_NOTES.get(name, ""), image=found[name]))
    sections.append(
        Section(
            "Repeat this run",
            "From the root of the repository, with the package versions listed below. "
            "The figures are the same on the same machine; on another they may differ in the last "
            "digits.",
            code=run.repeat_command(),
        )
    )
    settings = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    sections.append(Section("Configuration", code=settings.rstrip()))
    if run.environment:
        sections.append(Section("Environment", table=_environment_rows(run.environment)))
    return sections


def confusion_counts(
    labels: Sequence[str], predictions: Sequence[str], names: Sequence[str]
) -> np.ndarray:
    """Return counts of shape (C, C) for the C classes ``names``, rows true, columns predicted."""
    index = {name: order for order, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    for label, prediction in zip(labels, predictions, strict=True):
        matrix[index[label], index[prediction]] += 1
    return matrix


def _figures_section(run: RunRecord) -> Section:
    text = "" if run.finished else "This run has not finished: these are its figures so far."
    if not run.metrics:
        return Section("Figures", text or "This command has recorded no figures.")
    headline: dict[str, object] = {}
    found = figures(run.metrics)
    for figure in found:
        if len(headline) < 4 and (is_quality(figure.name) or len(found) <= 4):
            interval = f", 95 %: {_interval(figure)}" if figure.interval else ""
            headline[describe(figure.name) + interval] = figure.value
    few = len(headline) == len(found) and not any(figure.initial for figure in found)
    return Section(
        "Figures", text, figures=headline, table=None if few else figure_rows(run.metrics)
    )


def figure_rows(metrics: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return the rows of a table of figures; columns without a value in any row are left out."""
    rows: list[dict[str, object]] = [
        {
            "figure": describe(figure.name),
            "value": figure.value,
            "before training": figure.initial,
            "95 % interval": _interval(figure) if figure.interval else None,
        }
        for figure in figures(metrics)
    ]
    kept = [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []
    return [{name: row[name] for name in kept} for row in rows]


def _interval(figure: Figure) -> str:
    return " to ".join(format_number(end) for end in figure.interval or ())


def _is_newer(source: Path, product: Path) -> bool:
    if not source.is_file():
        return False
    return not product.is_file() or product.stat().st_mtime_ns < source.stat().st_mtime_ns


def _plot_predictions(path: Path, output: Path) -> None:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    prefix = "probability_"
    names = (
        [name.removeprefix(prefix) for name in rows[0] if name.startswith(prefix)] if rows else []
    )
    # Predictions of a score, or of rows without labels, have no confusion matrix.
    if names and len(names) <= MOST_CLASSES and "label" in rows[0]:
        labels, predictions = zip(*((row["label"], row["prediction"]) for row in rows), strict=True)
        plot_confusion(confusion_counts(labels, predictions, names), names, output)


def _environment_rows(environment: Mapping[str, Any]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            rows += [{"what": key, "value": str(inner)} for key, inner in value.items()]
        elif isinstance(value, list):
            rows.append({"what": describe(name), "value": " ".join(str(item) for item in value)})
        else:
            rows.append({"what": describe(name), "value": None if value is None else str(value)})
    return rows


def _prepared(section: Section, order: int) -> dict[str, Any]:
    columns = list(dict.fromkeys(name for row in section.table or () for name in row))
    return {
        "id": f"section-{order}",
        "title": section.title,
        "paragraphs": [
            _with_code(part) for part in re.split(r"\n\s*\n", section.text.strip()) if part
        ],
        "figures": {
            name if section.exact_titles else describe(name): _cell(value)
            for name, value in (section.figures or {}).items()
        },
        "columns": [
            {
                "title": name if section.exact_titles else describe(name),
                "numeric": _is_numeric(section.table or (), name),
            }
            for name in columns
        ],
        "rows": [[_cell(row.get(name)) for name in columns] for row in section.table or ()],
        "image": _embedded(section.image) if section.image else None,
        "code": section.code,
    }


def _with_code(text: str) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _is_numeric(table: Sequence[Mapping[str, object]], name: str) -> bool:
    values = [row[name] for row in table if row.get(name) is not None]
    return bool(values) and all(
        isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        for value in values
    )


def _cell(value: object) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_number(value)


def _embedded(image: Path) -> dict[str, object]:
    content = Path(image).read_bytes()
    # The width stands at bytes 16 to 19 of every PNG file; screens show 96 dots per inch.
    width = int.from_bytes(content[16:20], "big")
    encoded = base64.b64encode(content).decode("ascii")
    return {
        "source": f"data:image/png;base64,{encoded}",
        "width": round(width * 96 / DOTS_PER_INCH),
    }


STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --soft: #57606a; --paper: #ffffff; --box: #f6f8fa;
  --line: #d8dee4; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa5b1; --paper: #0f141a;
  --box: #1a212a; --line: #313a45; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.page { max-width: 60rem; margin: 0 auto; padding: 2.2rem 1.4rem 3rem; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 0.9rem; margin-bottom: 1.2rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.7rem; padding-bottom: 0.25rem;
  border-bottom: 1px solid var(--line); }
p { margin: 0.6rem 0; max-width: 46rem; }
.subtitle, footer, nav { color: var(--soft); font-size: 0.9rem; }
.subtitle { margin: 0.45rem 0 0; max-width: none; }
nav a { color: var(--accent); text-decoration: none; margin-right: 1.1rem; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr));
  gap: 0.8rem; margin: 0.9rem 0 1.2rem; }
.figure { background: var(--box); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.75rem 0.95rem; }
.figure .value { display: block; font-size: 1.65rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.figure .name { color: var(--soft); font-size: 0.88rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.93rem; margin: 0.7rem 0; min-width: 22rem; }
th, td { text-align: left; padding: 0.36rem 1.3rem 0.36rem 0.5rem; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; white-space: nowrap; }
td.number, th.number { text-align: right; padding: 0.36rem 0.7rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
tbody tr:hover { background: var(--box); }
img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: 0.6rem;
  border: 1px solid var(--line); border-radius: 8px; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 8px; margin: 0.7rem 0;
  padding: 0.8rem 1rem; font-size: 0.87rem; line-height: 1.45; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
p code { background: var(--box); border-radius: 4px; padding: 0.1em 0.35em; font-size: 0.9em; }
footer { margin-top: 3rem; padding-top: 0.8rem; border-top: 1px solid var(--line); }
@media print { :root { --ink: #000000; --soft: #444444; --paper: #ffffff; --box: #ffffff;
  --line: #bbbbbb; --accent: #0072b2; } nav { display: none; } body { font-size: 11pt; }
  .page { max-width: none; padding: 0; } h2 { break-after: avoid; }
  img, .figure, tr { break-inside: avoid; } }
"""

TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<div class="page">
<header>
<h1>{{ title }}</h1>
{% if subtitle %}
<p class="subtitle">{{ subtitle }}</p>
{% endif %}
</header>
{% if sections | length > 3 %}
<nav>
{% for section in sections %}
<a href="#{{ section.id }}">{{ section.title }}</a>
{% endfor %}
</nav>
{% endif %}
<main>
{% for section in sections %}
<section id="{{ section.id }}">
<h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.figures %}
<div class="figures">
{% for name, value in section.figures.items() %}
<div class="figure"><span class="value">{{ value }}</span><span class="name">{{ name }}</span></div>
{% endfor %}
</div>
{% endif %}
{% if section.columns %}
<div class="wide">
<table>
<thead><tr>
{% for column in section.columns %}
<th{% if column.numeric %} class="number"{% endif %}>{{ column.title }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in section.rows %}
<tr>
{% for value in row %}
<td{% if section.columns[loop.index0].numeric %} class="number"{% endif %}>{{ value }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% if section.image %}
<img src="{{ section.image.source }}" width="{{ section.image.width }}" alt="{{ section.title }}">
{% endif %}
{% if section.code is not none %}
<pre>{{ section.code }}</pre>
{% endif %}
</section>
{% endfor %}
</main>
<footer>Written by nlpapp {{ version }}</footer>
</div>
</body>
</html>
"""
)
