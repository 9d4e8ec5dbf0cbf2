"""The report of a run: its figures, plots, configuration and environment on one page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nlpapp.evaluation.classifier_sections import prediction_sections
from nlpapp.evaluation.error_analysis import Texts
from nlpapp.evaluation.page import Section, write_report
from nlpapp.evaluation.plots import describe, format_number, plot_curves
from nlpapp.evaluation.prediction_table import read_prediction_table
from nlpapp.evaluation.run_record import Figure, RunRecord, figures, is_quality, read_run

__all__ = ["Section", "figure_rows", "run_sections", "write_report", "write_run_report"]

PREDICTIONS = "predictions-dev.tsv"
"""Columns ``label`` (the true one), ``prediction``, and ``probability_<name>`` of each class."""
PLOT_TITLES = {
    "curves": "Training curves",
    "trade_off": "Size, speed and accuracy",
}
PLOT_NOTES = {
    "curves": "Solid lines are training, dashed lines with points evaluations on data held out.",
}
SHOWN_BY_SECTIONS = {"confusion", "calibration"}
"""Plots that `prediction_sections` draws and explains."""


def write_run_report(
    run_folder: Path, *, metrics: Mapping[str, Any] | None = None, texts: Texts | None = None
) -> Path:
    """Write ``report.html`` into the folder of a run, from the files that the run has left there.

    Args:
        run_folder: the output_dir of a command.
        metrics: the run's final figures, if metrics.json is not written yet.
        texts: of the rows in its dev predictions; without them the page says less.

    Raises:
        DataError: the folder holds no run.
    """
    run = read_run(run_folder, metrics=metrics)
    return write_report(
        run.path / "report.html",
        title=run_title(run),
        subtitle=run_subtitle(run),
        sections=run_sections(run, plots=run.path / "plots", texts=texts),
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


def run_sections(run: RunRecord, *, plots: Path, texts: Texts | None = None) -> list[Section]:
    """Return the sections of one run's report.

    Curves that the run lacks, or that are older than its figures, are drawn into ``plots``, as is
    what is made of the predictions. ``texts`` are those of the rows of the dev predictions.
    """
    kept = run.path / "plots"
    if _is_newer(run.metrics_jsonl, kept / "curves.png"):
        plot_curves(run.metrics_jsonl, plots / "curves.png")
    sections = [_figures_section(run)]
    found = {path.stem: path for folder in (kept, plots) for path in sorted(folder.glob("*.png"))}
    for name in SHOWN_BY_SECTIONS:
        found.pop(name, None)
    ordered = [name for name in PLOT_TITLES if name in found]
    for name in ordered + [name for name in found if name not in PLOT_TITLES]:
        title = PLOT_TITLES.get(name, describe(name.replace("-", "_")).capitalize())
        sections.append(Section(title, PLOT_NOTES.get(name, ""), image=found[name]))
    table = read_prediction_table(run.path / PREDICTIONS)
    if table is not None:
        sections += prediction_sections([table], texts, plots)
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
