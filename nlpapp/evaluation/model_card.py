"""Model cards: the README.md of a model folder, in the form that the Hugging Face Hub reads."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nlpapp.evaluation.plots import describe, format_number
from nlpapp.evaluation.report import figure_rows
from nlpapp.evaluation.run_record import (
    INTERVAL_ENDS,
    RunRecord,
    flatten,
    is_quality,
    read_run,
)

FRONT_MATTER = ("language", "license", "base_model", "pipeline_tag", "datasets", "tags")
"""The keys of ``details`` that go into the card's YAML header."""
LONGEST_CELL = 120
CURVES = "curves.png"
DEFAULT_LIMITS = (
    "Expect lower figures on text of another kind, length or time than the training text: measure "
    "on your own before relying on it. The model repeats whatever bias its training text has."
)


def write_model_card(
    folder: Path,
    *,
    title: str,
    summary: str,
    metrics: Mapping[str, Any],
    usage: str,
    run_folder: Path | None = None,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``README.md`` into a model folder and return its path.

    Args:
        folder: the model folder.
        title: the heading.
        summary: what the model is and does, in a few sentences of Markdown.
        metrics: flat figures; ``accuracy`` with ``accuracy_low`` and ``accuracy_high`` beside it is
            shown as one row with its 95 % interval.
        usage: the code (or command line) that uses the model.
        run_folder: the run that made it; adds hyper-parameters, versions, the command, and a
            copy of its curves.
        details: more about the model. The keys of FRONT_MATTER go into the YAML header; ``dataset``
            names the evaluation data of the header's results; ``limits`` replaces the text on
            limits; everything else is shown under "Training data", dicts as tables of their own.
    """
    details = dict(details or {})
    run = read_run(run_folder, metrics=metrics) if run_folder is not None else None
    limits = details.pop("limits", DEFAULT_LIMITS)
    header = _front_matter(title, metrics, run, details)
    parts = [f"# {title}", summary.strip(), _results(metrics), _usage(usage), _data(details)]
    if run is not None:
        parts += [_training(run), _curves(run, Path(folder)), _versions(run)]
    parts += ["## Limits", str(limits).strip()]
    path = Path(folder) / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("README.md.partial")
    body = "\n\n".join(part for part in parts if part)
    partial.write_text(f"---\n{header}---\n\n{body}\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def _front_matter(
    title: str, metrics: Mapping[str, Any], run: RunRecord | None, details: dict[str, Any]
) -> str:
    """Return the YAML header, taking its keys out of ``details``."""
    given = {key: details.pop(key) for key in FRONT_MATTER if key in details}
    dataset = details.pop("dataset", None)
    tags = ["nlpapp", *([run.command] if run else []), *given.pop("tags", [])]
    quality = {name: value for name, value in metrics.items() if _is_quality(name, value)}
    header = {**given, "library_name": "transformers", "tags": list(dict.fromkeys(tags))}
    if quality:
        header["metrics"] = list(quality)
    # The Hub shows results only with a task and the data they were measured on.
    if quality and dataset is not None and "pipeline_tag" in given:
        header["model-index"] = [
            {
                "name": title,
                "results": [
                    {
                        "task": {"type": given["pipeline_tag"]},
                        "dataset": {"name": str(dataset), "type": str(dataset)},
                        "metrics": [
                            {"type": name, "name": describe(name), "value": float(value)}
                            for name, value in quality.items()
                        ],
                    }
                ],
            }
        ]
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=True)


def _is_quality(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return is_quality(name) and not name.endswith(INTERVAL_ENDS)


def _results(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return ""
    rows = figure_rows(metrics)
    columns = list(rows[0])
    cells = [[_number(row[column]) for column in columns] for row in rows]
    return "## Results\n\n" + _table(columns, cells)


def _usage(usage: str) -> str:
    language = "bash" if usage.lstrip().startswith(("nlpapp ", "$ ")) else "python"
    return f"## How to use it\n\n```{language}\n{usage.strip()}\n```"


def _data(details: Mapping[str, Any]) -> str:
    if not details:
        return ""
    parts = ["## Training data"]
    short = {name: value for name, value in details.items() if _is_short(value)}
    if short:
        parts.append(_facts(short))
    for name, value in details.items():
        if isinstance(value, Mapping) and value:
            # Under a heading of the same name another would say nothing.
            parts += [] if name == "training data" else [f"### {describe(name).capitalize()}"]
            parts.append(_facts(flatten(value)))
        elif not _is_short(value):
            parts += [f"### {describe(name).capitalize()}", f"```text\n{value}\n```"]
    return "\n\n".join(parts)


def _is_short(value: Any) -> bool:
    return not isinstance(value, Mapping) and len(str(value)) <= LONGEST_CELL


def _training(run: RunRecord) -> str:
    parts = [f"## Training\n\n```bash\n{run.repeat_command()}\n```"]
    if run.config:
        rows = [[f"`{name}`", _code(value)] for name, value in flatten(run.config).items()]
        parts.append("### Hyper-parameters\n\n" + _table(["option", "value"], rows))
    return "\n\n".join(parts)


def _curves(run: RunRecord, folder: Path) -> str:
    """Copy the picture of the run's curves beside the card, so that it goes where the card goes."""
    picture = run.path / "plots" / CURVES
    if not picture.is_file():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, folder / CURVES)
    return f"### Curves\n\n![What was measured at each step of the training]({CURVES})"


def _versions(run: RunRecord) -> str:
    environment = run.environment
    versions = environment.get("versions", {})
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts = {name: environment.get(name) for name in ("device", "world_size", "git_commit")}
    known = {name: value for name, value in facts.items() if value is not None}
    parts = [_facts(known) if known else "", listed and f"Versions: {listed}."]
    body = "\n\n".join(part for part in parts if part)
    return f"### Environment\n\n{body}" if body else ""


def _number(value: object) -> str:
    return "" if value is None else format_number(value)


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [[describe(name), _code(value)] for name, value in facts.items()]
    return _table(["what", "value"], rows)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _code(value: Any) -> str:
    """Return a value as it is written in a table, quoted so that Markdown leaves it alone."""
    if isinstance(value, bool) or value is None or isinstance(value, (list, tuple)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    elif isinstance(value, (int, float)):
        return str(value)
    else:
        text = str(value)
    text = " ".join(text.split())
    return f"``{text}``" if "`" in text else f"`{text}`"
