"""Check what this machine has and can do, and say what each problem means and the way out."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nlpapp.deployment import machine
from nlpapp.deployment.machine import Check, guarded
from nlpapp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Check versions, devices, memory, disk and network, and say what each problem means."""

    output_dir: str | None = None
    """Folder that runs are to go to: its disk is checked, and doctor.json with all findings is left
    there. When absent, the current folder is checked and nothing is written."""


def run(config: Config) -> dict[str, float]:
    """Print one line for each finding; return the number of checks, warnings and problems."""
    folder = Path(config.output_dir) if config.output_dir else Path.cwd()
    checks = [
        *guarded("python", machine.check_python),
        *guarded("packages", machine.check_packages),
        *guarded("devices", machine.check_devices),
        *guarded("cores", machine.check_cores),
        *guarded("memory", machine.check_memory),
        *guarded("output", lambda: machine.check_folder("output", folder)),
        *guarded("hub", machine.check_hub),
        *guarded("encoding", machine.check_encoding),
        *guarded("place", lambda: machine.check_place(Path.cwd())),
    ]
    print(as_text(checks))
    metrics = count(checks)
    if config.output_dir is not None:
        _leave(folder, checks, metrics)
    return metrics


def count(checks: Sequence[Check]) -> dict[str, float]:
    """Return the number of checks, warnings and problems."""
    statuses = [check.status for check in checks]
    return {
        "checks": float(len(checks)),
        "warnings": float(statuses.count("warn")),
        "problems": float(statuses.count("problem")),
    }


def as_text(checks: Sequence[Check]) -> str:
    """Return the findings as lines of at most 100 characters, where paths and names allow."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<8}{check.name:<{width}}  {check.found}")
        indent = " " * (8 + width + 2)
        lines += textwrap.wrap(
            check.meaning, 100, initial_indent=indent, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    metrics = count(checks)
    warnings, problems = int(metrics["warnings"]), int(metrics["problems"])
    counted = (
        f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}."
    )
    advice = "" if problems else " Ready: try `nlpapp quickstart`."
    return "\n".join([*lines, "", counted + advice])


def _leave(folder: Path, checks: Sequence[Check], metrics: dict[str, float]) -> None:
    record = {**metrics, "findings": [asdict(check) for check in checks]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "doctor.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {folder / 'doctor.json'}: {error.strerror or error}. "
            "Give another output_dir, or make this one writable."
        ) from error
