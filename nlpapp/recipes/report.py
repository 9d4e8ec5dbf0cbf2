"""Write a page about one run, or one that compares several."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from nlpapp.errors import ConfigError, NlpappError
from nlpapp.evaluation.classifier_sections import difference_section
from nlpapp.evaluation.error_analysis import Texts
from nlpapp.evaluation.glue_table import best_of_tasks
from nlpapp.evaluation.plots import describe, format_number, plot_run_comparison
from nlpapp.evaluation.prediction_table import read_prediction_table
from nlpapp.evaluation.report import (
    PREDICTIONS,
    Section,
    run_sections,
    run_subtitle,
    run_title,
    write_report,
    write_run_report,
)
from nlpapp.evaluation.run_record import (
    Figure,
    RunRecord,
    config_differences,
    figures,
    read_run,
)

POSITIONAL = "runs"
"""The option whose values may stand by themselves: `nlpapp report A B`."""
COMPARISON = "comparison.html"
OWN_PAGES = {"glue", "multitask", "ablation", "make-data", "train-lm", "quickstart"}
"""Commands whose report.html holds what the plain page of a run does not."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Write a self-contained HTML page about one run, or a comparison of several.

    nlpapp report RUN; or nlpapp report A B
    """

    runs: list[str]
    """Run folders: the output_dir of earlier commands. One gives its report, more a comparison.
    They may stand by themselves: nlpapp report A B."""
    output: str | None = None
    """The page to write; absent: report.html in the run's folder, or comparison.html here."""


def run(config: Config) -> dict[str, float]:
    """Write the page; return the number of runs, and of options in which they differ."""
    if not config.runs:
        raise ConfigError("runs is empty: give at least one run folder: nlpapp report runs/a")
    runs = {name: read_run(path) for name, path in _names(config.runs).items()}
    first, *others = runs.values()
    if others or config.output is not None:
        page = _write_elsewhere(runs, _page_path(config.output or COMPARISON))
    elif first.command in OWN_PAGES and first.finished and (first.path / "report.html").is_file():
        raise ConfigError(
            f"{first.path / 'report.html'} is the page that nlpapp {first.command} wrote, and has "
            "more in it than this one would: open it, or give --output for the plain page."
        )
    else:
        page = write_run_report(first.path, texts=dev_texts(first))
    print(f"wrote {page}")
    return {"runs": float(len(runs)), "differences": float(len(config_differences(runs)))}


def _write_elsewhere(runs: dict[str, RunRecord], page: Path) -> Path:
    # What is drawn for a page elsewhere leaves nothing in the runs' folders.
    with tempfile.TemporaryDirectory() as plots:
        if len(runs) > 1:
            sections = _comparison(runs, Path(plots))
            return write_report(page, title=f"Comparison of {', '.join(runs)}", sections=sections)
        (run,) = runs.values()
        sections = run_sections(run, plots=Path(plots), texts=dev_texts(run))
        subtitle = run_subtitle(run)
        return write_report(page, title=run_title(run), subtitle=subtitle, sections=sections)


def _comparison(runs: dict[str, RunRecord], plots: Path) -> list[Section]:
    differences = config_differences(runs)
    logged = {name: run.metrics_jsonl for name, run in runs.items() if run.metrics_jsonl.is_file()}
    curves = plot_run_comparison(logged, plots / "curves.png")
    same = "The configurations are the same but for the output folder."
    changed = [{"option": key, **values} for key, values in differences.items()]
    return [
        _metrics_section(runs),
        Section("What changed", "" if changed else same, table=changed, exact_titles=True),
        *_changed_rows(runs),
        *([Section("Curves", image=curves)] if curves else []),
        Section("The runs", table=[_run_row(name, run) for name, run in runs.items()]),
        Section("Repeat them", code="\n".join(run.repeat_command() for run in runs.values())),
    ]


def _changed_rows(runs: dict[str, RunRecord]) -> list[Section]:
    """Return what two classifiers, or the best of two `glue`, say differently of the same rows."""
    if len(runs) != 2:
        return []
    first, second = runs.values()
    pairs = {"": (first, second)}
    if first.command == second.command == "glue":
        one, other = best_of_tasks(first.path), best_of_tasks(second.path)
        pairs = {f"{task}: ": (one[task], other[task]) for task in one if task in other}
    found = []
    for title, pair in pairs.items():
        tables = [read_prediction_table(run.path / PREDICTIONS) for run in pair]
        named = dict(zip(runs, tables, strict=True))
        found.append(difference_section(named, dev_texts(pair[0]), title=title))
    return [section for section in found if section is not None]


def dev_texts(run: RunRecord) -> Texts | None:
    """Return the texts of a run's dev predictions, read again from where its options say.

    None for commands without such predictions, and where the data is there no longer.
    """
    if not (run.path / PREDICTIONS).is_file():
        return None
    # Imported here because they need torch, which a page of curves does not.
    from nlpapp.data.classification import read_examples
    from nlpapp.data.classification_sets import SET_OPTIONS, read_sets
    from nlpapp.data.glue_tasks import get_task, read_task

    options = run.config
    try:
        if options.get("task") is not None:
            task = get_task(options["task"])
            split = options.get("split") or (*task.dev_splits, "test")[0]
            examples = read_task(task, options["data_dir"], split)
        elif options.get("file") is not None:
            columns = ("text_column", "text_pair_column", "label_column", "header")
            given = {name: options[name] for name in columns if name in options}
            examples = read_examples(options["file"], **given)
        else:
            known = {name: options[name] for name in SET_OPTIONS if name in options}
            examples = next(iter(read_sets(**known).dev.values()))
    except (NlpappError, OSError, KeyError):
        return None
    return examples.texts


def _run_row(name: str, run: RunRecord) -> dict[str, object]:
    return {
        "run": name,
        "command": run.command,
        "folder": str(run.path),
        "state": "finished" if run.finished else "not finished",
        "made": run_subtitle(run),
    }


def _metrics_section(runs: dict[str, RunRecord]) -> Section:
    cells = {
        run: {figure.name: _cell(figure) for figure in figures(record.metrics)}
        for run, record in runs.items()
    }
    # The order of all runs' figures together, in which each belongs to its interval's figure.
    together = {name: value for run in runs.values() for name, value in run.metrics.items()}
    table: list[dict[str, object]] = [
        {"figure": describe(figure.name), **{run: cells[run].get(figure.name) for run in runs}}
        for figure in figures(together)
    ]
    text = "" if table else "None of these runs has recorded figures."
    unfinished = [name for name, run in runs.items() if not run.finished]
    if unfinished:
        text += f"Not finished, with the figures so far: {', '.join(unfinished)}."
    return Section("Figures", text, table=table or None, exact_titles=True)


def _cell(figure: Figure) -> object:
    if figure.interval is None:
        return figure.value
    low, high = map(format_number, figure.interval)
    return f"{format_number(figure.value)} ({low} to {high})"


def _names(folders: list[str]) -> dict[str, str]:
    """Return short names of the folders: the last part, or as many parts as tell them apart."""
    parts = [Path(folder).resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ConfigError(f"runs names a folder twice: {', '.join(folders)}")
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return {str(Path(*part[-depth:])): folder for part, folder in zip(parts, folders, strict=True)}


def _page_path(output: str) -> Path:
    path = Path(output)
    if path.is_dir():
        path = path / "report.html"
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"output {output} is to be a page: give a name that ends in .html")
    return path
