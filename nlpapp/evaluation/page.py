"""One self-contained HTML page: no script, and nothing loaded from anywhere else."""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from nlpapp import __version__
from nlpapp.evaluation.plots import DOTS_PER_INCH, describe, format_number


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
    """Write one HTML page with ``sections`` below ``title``; return ``path``."""
    prepared = [_prepared(section, order) for order, section in enumerate(sections, start=1)]
    body = TEMPLATE.render(sections=prepared)
    return write_page(path, title=title, body=body, subtitle=subtitle)


def write_page(
    path: Path,
    *,
    title: str,
    body: str,
    subtitle: str = "",
    style: str | None = None,
    window_title: str | None = None,
    policy: str | None = None,
) -> Path:
    """Write the frame that all pages share, with ``body`` in it; return ``path``.

    The page is written beside ``path`` and renamed, so an interrupted write leaves the old one.

    Args:
        path: the HTML file.
        title: the heading.
        body: HTML of the page's parts, its ``main`` element included.
        subtitle: a line below the heading.
        style: style sheet; None: `STYLE`.
        window_title: what the window is called; None: as the heading.
        policy: a content security policy, as it stands in HTML; None: none.
    """
    path = Path(path)
    page = FRAME.render(
        title=title,
        subtitle=subtitle,
        window_title=window_title or title,
        policy=Markup(policy) if policy is not None else None,
        style=Markup(STYLE if style is None else style),
        body=Markup(body),
        version=__version__,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


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

ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
FRAME = ENVIRONMENT.from_string(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{% if policy %}
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
{% endif %}
<title>{{ window_title }}</title>
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
{{ body }}
<footer>Written by nlpapp {{ version }}</footer>
</div>
</body>
</html>
"""
)
TEMPLATE = ENVIRONMENT.from_string(
    """{% if sections | length > 3 %}
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
</main>"""
)
