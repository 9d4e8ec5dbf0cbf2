"""Read what a run has left behind: its configuration, environment and figures."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nlpapp.errors import DataError, nearest

QUALITY = (
    *("accuracy", "f1", "precision", "recall", "correlation", "pearson", "spearmanr"),
    *("perplexity", "bits", "bpc", "loss"),
)
"""The words in the names of figures of quality, in the order in which people look for them."""
WHERE_NOT_WHAT = {"output_dir"}
"""Options that differ between any two runs and explain nothing."""
INTERVAL_ENDS = ("_low", "_high")
"""``accuracy_low`` and ``accuracy_high`` are the ends of the 95 % interval of ``accuracy``."""
INITIAL = "initial_"
"""``initial_loss`` is what ``loss`` was before training."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The files of a run folder, read; what is absent is empty."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    """Whether the run has written its final figures (metrics.json)."""

    @property
    def command(self) -> str:
        """The name of the command that made the run."""
        return str(self.environment.get("command", "run"))

    @property
    def metrics_jsonl(self) -> Path:
        """Where the run's curves are; the file may be absent."""
        return self.path / "metrics.jsonl"

    def repeat_command(self) -> str:
        """Return the command line that repeats the run, into a new folder."""
        again = self.path.with_name(self.path.name + "-again")
        config = shlex.quote(str(self.path / "config.yaml"))
        return f"nlpapp {self.command} --config {config} --output_dir {shlex.quote(str(again))}"


def read_run(folder: str | Path, *, metrics: Mapping[str, Any] | None = None) -> RunRecord:
    """Read the run in ``folder``; ``metrics`` stand for its metrics.json, if that is still to come.

    A run that has not finished has the last evaluation of its metrics.jsonl as its figures.

    Raises:
        DataError: ``folder`` holds no run, or a file of it that cannot be read.
    """
    folder = Path(folder)
    if not is_run_folder(folder):
        raise DataError(_why_not_a_run(folder))
    final = folder / "metrics.json"
    finished = metrics is not None or final.is_file()
    if metrics is None:
        metrics = _read_json(final) if finished else _last_evaluation(folder / "metrics.jsonl")
    return RunRecord(
        path=folder,
        config=_read_yaml(folder / "config.yaml"),
        environment=_read_json(folder / "environment.json"),
        metrics=dict(metrics),
        finished=finished,
    )


def is_run_folder(folder: Path) -> bool:
    """Say whether ``folder`` holds a run: every run writes its config.yaml before anything else."""
    return (folder / "config.yaml").is_file()


def is_quality(name: str) -> bool:
    """Say whether a figure tells how good the model is, as ``seconds`` and ``best_step`` do not."""
    words = name.split("_")
    return any(word in words for word in QUALITY) and not name.startswith(INITIAL)


@dataclass(frozen=True)
class Figure:
    """One figure of a run, with what belongs to it."""

    name: str
    value: Any
    interval: tuple[Any, Any] | None = None
    """The ends of its 95 % interval."""
    initial: Any = None
    """What it was before training."""


def figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """Return the figures in ``metrics``, quality first, each with its interval and first value."""
    rows = []
    for name, value in ordered_metrics(metrics):
        bases = [name.removesuffix(end) for end in INTERVAL_ENDS if name.endswith(end)]
        bases += [name.removeprefix(INITIAL)] if name.startswith(INITIAL) else []
        if any(base in metrics for base in bases):
            continue  # shown with the figure that it belongs to
        low, high = (metrics.get(name + end) for end in INTERVAL_ENDS)
        interval = None if low is None or high is None else (low, high)
        rows.append(Figure(name, value, interval, metrics.get(INITIAL + name)))
    return rows


def ordered_metrics(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the metrics with those people look for first, else in their own order."""

    def position(item: tuple[str, Any]) -> tuple[bool, int]:
        words = item[0].split("_")
        found = [order for order, word in enumerate(QUALITY) if word in words]
        return item[0].startswith(INITIAL), min(found, default=len(QUALITY))

    return sorted(metrics.items(), key=position)


def config_differences(runs: Mapping[str, RunRecord]) -> dict[str, dict[str, object]]:
    """Return option -> run -> value for the options that are not the same in all ``runs``."""
    settings = {name: flatten(run.config) for name, run in runs.items()}
    keys = dict.fromkeys(key for flat in settings.values() for key in flat)
    found: dict[str, dict[str, object]] = {}
    for key in keys:
        values = {name: str(flat.get(key, "(no such option)")) for name, flat in settings.items()}
        if key not in WHERE_NOT_WHAT and len(set(values.values())) > 1:
            found[key] = dict(values)
    return found


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested ``settings`` with dotted keys: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def _last_evaluation(metrics_jsonl: Path) -> dict[str, Any]:
    if not metrics_jsonl.is_file():
        return {}
    last: dict[str, Any] = {}
    for line in metrics_jsonl.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut short when the run was stopped
        if isinstance(record, dict) and record.get("split") != "train":
            last = record
    return {name: value for name, value in last.items() if name not in ("split", "seconds")}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path}: not valid JSON ({error}); repeat the run that wrote it"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not valid YAML ({error}); repeat the run that wrote it"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a table of options, found {type(found).__name__}")
    return found


def _why_not_a_run(folder: Path) -> str:
    holds = (
        "A run folder is the output_dir of a command; it holds config.yaml, environment.json, "
        "metrics.jsonl and, at the end, metrics.json."
    )
    if folder.is_file():
        return f"{folder} is a file, not a run folder. {holds}"
    if folder.is_dir():
        inside = sorted(path.parent.relative_to(folder) for path in folder.glob("*/config.yaml"))
        listed = ", ".join(str(folder / path) for path in inside[:5])
        hint = f" The folders of runs inside it: {listed}." if inside else ""
        return f"{folder} is not a run folder: it has no config.yaml. {holds}{hint}"
    siblings = []
    if folder.parent.is_dir():
        siblings = [path.name for path in folder.parent.iterdir() if is_run_folder(path)]
    return f"{folder}: no such folder.{nearest(folder.name, siblings)} {holds}"
