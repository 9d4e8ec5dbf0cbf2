"""What a run leaves behind: configuration, environment, metrics, log, under fixed names.

Only the main process writes. Tools and tests read these files, so their names and forms are a
contract (docs/architecture.md lists them).
"""

import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from tqdm.auto import tqdm

from nlpapp import __version__
from nlpapp.disk import disk_errors, write_text
from nlpapp.errors import ConfigError

logger = logging.getLogger("nlpapp")

UNBINDING_KEYS = {
    "output_dir",
    *("workers", "executor", "ray_address", "preview", "teacher_logits"),
    "hub",
    *("training.resume", "training.num_workers", "training.log_every"),
    *("training.checkpoint_every", "training.keep_checkpoints"),
    *("training.tensorboard", "training.trackers"),
    *("training.gradient_accumulation_steps", "training.gradient_checkpointing"),
    *("training.compile", "unpad"),
}
"""Options, or groups of them, that may differ between a run and its continuation.

All but the last four change no number of the run. Those four compute the same update in another
way, as another number of processes does: it is the same but for its rounding and for which units
dropout leaves out, and a run that met a batch too large for its memory can go on with them. What
decides on the update itself, or on when it is judged (rates, batches, precision, max_steps,
max_hours, evaluate_every), must stay as it was.
"""

FIRST_FILES = {"config.yaml", "environment.json", "train.log"}
"""What a run writes before it does anything."""

PACKAGES = (
    *("torch", "transformers", "datasets", "tokenizers", "accelerate", "evaluate"),
    *("numpy", "onnxruntime", "scikit-learn"),
)


class RunFolder:
    """The folder of one run; make it with `RunFolder.open`."""

    def __init__(self, path: Path, *, is_main: bool) -> None:
        """Point at ``path`` without touching the disk."""
        self.path = path
        self.is_main = is_main
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.plots = path / "plots"
        self.finished: dict[str, float] | None = None
        self._start = time.monotonic()

    @classmethod
    def open(cls, output_dir: str | Path, *, config: Any, command: str, seed: int) -> "RunFolder":
        """Create the folder of a run, or open it again to go on.

        Args:
            output_dir: the folder; it is created, or must hold a run of the same configuration.
            config: the recipe's Config; written to config.yaml before anything else happens.
            command: the command's name, for environment.json.
            seed: the run's seed, for environment.json.

        Raises:
            ConfigError: the folder holds another run, or something that is not a run, or cannot
                be written to.
        """
        run = cls(Path(output_dir), is_main=int(os.environ.get("RANK", "0")) == 0)
        settings = dataclasses.asdict(config)
        try:
            if (run.path / "metrics.json").is_file():
                run.finished = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
            if run.is_main:
                _check_same_run(run.path, settings, _defaults(config))
                run.path.mkdir(parents=True, exist_ok=True)
                text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
                write_text(run.path / "config.yaml", text)
                if run.finished is None:
                    record = json.dumps(environment(command, seed), indent=2)
                    write_text(run.path / "environment.json", record)
            run.take_log()
        except OSError as error:
            raise ConfigError(
                f"cannot write to the output folder {run.path}: {error}. "
                "Choose another output_dir, or make this one writable."
            ) from error
        if run.finished is not None:
            logger.info("%s is complete already: nothing to do (remove it to run again)", run.path)
        return run

    def take_log(self) -> None:
        """Send the package's log to the console and to this run's train.log, and to no other."""
        _log_to(self.path / "train.log" if self.is_main else None)

    def log(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Append one record to metrics.jsonl.

        Raises:
            DataError: it cannot be written, as on a full disk.
        """
        if self.is_main:
            seconds = round(self.seconds, 3)
            record = {"step": step, "split": split, "seconds": seconds, **metrics}
            path = self.path / "metrics.jsonl"
            with disk_errors(path, "Checkpoints stay"), open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, those before a resume included."""
        return time.monotonic() - self._start

    def rewind(self, step: int, seconds: float) -> None:
        """Drop the records after ``step``: the run goes on there, ``seconds`` into its time."""
        self._start = time.monotonic() - seconds
        path = self.path / "metrics.jsonl"
        if self.is_main and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _record_step(line) <= step]
            write_text(path, "".join(line + "\n" for line in kept))

    def finish(self, metrics: dict[str, float]) -> None:
        """Write metrics.json: its presence says that the run is complete."""
        if self.is_main:
            write_text(self.path / "metrics.json", json.dumps(metrics, indent=2))
        self.finished = metrics


def _record_step(line: str) -> float:
    # A line cut short by a kill belongs to no step.
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested ``settings`` with dotted keys: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _defaults(config: Any) -> dict[str, Any]:
    """Return the defaults of ``config`` and of its groups, nested as they are in it."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(default):
            found[field.name] = dataclasses.asdict(default)  # type: ignore[arg-type]
        elif dataclasses.is_dataclass(value):
            found[field.name] = _defaults(value)
        elif isinstance(value, list) and value and all(map(dataclasses.is_dataclass, value)):
            found[field.name] = [
                _defaults(group) | {"name": getattr(group, "name", None)} for group in value
            ]
        elif default is not dataclasses.MISSING:
            found[field.name] = default
    return found


def _check_same_run(path: Path, settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output_dir {path} is a file; give a folder")
    if not path.is_dir() or {file.name for file in path.iterdir()} <= FIRST_FILES:
        return  # Empty, or of a run that failed before it made anything.
    recorded = path / "config.yaml"
    if not recorded.is_file():
        raise ConfigError(
            f"output_dir {path} is not empty and holds no run (no config.yaml). "
            "Give an empty or a new folder."
        )
    # Through YAML and back, so that tuples and lists compare equal.
    new, usual = (
        flatten(_by_name(yaml.safe_load(yaml.safe_dump(x)))) for x in (settings, defaults)
    )
    old = flatten(_by_name(yaml.safe_load(recorded.read_text(encoding="utf-8")) or {}))
    # An option that came after the run was started: it ran as the default does.
    old |= {key: usual[key] for key in new.keys() - old.keys() if key in usual}
    different = [
        f"{key}: {old.get(key, '(absent)')!r} there, {new.get(key, '(absent)')!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not _is_unbinding(key)
    ]
    if different:
        raise ConfigError(
            f"output_dir {path} holds another run; it differs in {'; '.join(different)}. "
            "Give another output_dir, or the same options to go on with that run."
        )


def _by_name(settings: dict[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with a dict in place of each list of named groups, such as phases."""
    return {
        key: {str(group["name"]): group for group in value}
        if isinstance(value, list) and value and all(_is_named(group) for group in value)
        else value
        for key, value in settings.items()
    }


def _is_named(group: Any) -> bool:
    return isinstance(group, dict) and "name" in group


def _is_unbinding(key: str) -> bool:
    """Say whether ``key``, or a group that it is in, is unbinding; phases have options as well."""
    key = re.sub(r"^phases\.[^.]+\.", "training.", key)
    return any(f".{name}." in f".{key}." for name in UNBINDING_KEYS)


def environment(command: str, seed: int) -> dict[str, Any]:
    """Return what is needed to know where the figures of a run come from."""
    versions = {"python": platform.python_version(), "nlpapp": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    # A command that has not loaded torch by now computes without it.
    torch = sys.modules.get("torch")
    device = platform.machine() + " CPU"
    if torch is not None and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return {
        "command": command,
        "arguments": sys.argv[1:],
        "seed": seed,
        "versions": versions,
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


class _ConsoleHandler(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _log_to(path: Path | None) -> None:
    """Send the package's log to the console and, on the main process, to ``path``."""
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler | _ConsoleHandler):
            logger.removeHandler(handler)
            handler.close()
    if path is None:
        return
    logger.setLevel(logging.INFO)
    console, file = _ConsoleHandler(), logging.FileHandler(path, encoding="utf-8")
    console.setFormatter(logging.Formatter("%(message)s"))
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(console)
    logger.addHandler(file)
