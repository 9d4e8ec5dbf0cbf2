"""Experiment trackers, through Accelerate: TensorBoard files in the run folder, others by name.

A tracker shows a run; it never stops one. What fails in a tracker is told once, and training goes
on without it. A run that goes on from a checkpoint goes on in the same entry of the tracker.
"""

import json
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from nlpapp.disk import write_text
from nlpapp.errors import ConfigError, nearest
from nlpapp.training.run_folder import RunFolder, flatten

logger = logging.getLogger("nlpapp")

PACKAGES = ("wandb", "mlflow", "trackio")
"""Trackers that can be asked for; each is the name of the package it needs."""
PROJECT = "nlpapp"
MEMORY = "trackers.json"
"""The file of the run folder that keeps under which names trackers know the run."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed, before anything is computed.

    A class given to ``accelerate.tracking.register_tracker_class`` is known by its name.

    Raises:
        ConfigError: it names the trackers there are, or the package to install.
    """
    for name in names:
        if name in PACKAGES:
            if find_spec(name) is None:
                raise ConfigError(
                    f"training.trackers: {name} is not installed; pip install {name}, "
                    f"or leave {name} out"
                )
        elif name not in LOGGER_TYPE_TO_CLASS or name == "tensorboard":
            raise ConfigError(
                f"training.trackers: there is no tracker '{name}'.{nearest(name, PACKAGES)} "
                f"There are {', '.join(PACKAGES)}; TensorBoard has its own option, tensorboard."
            )


class Trackers:
    """The trackers of one run; does nothing except on the main process."""

    def __init__(self, run: RunFolder, names: Sequence[str], *, tensorboard: bool) -> None:
        """Keep the names; nothing is opened before `start`."""
        check_trackers(names)
        self.run = run
        self.names = [*(["tensorboard"] if tensorboard else []), *names] if run.is_main else []
        self.open: dict[str, GeneralTracker] = {}

    def start(self, step: int) -> None:
        """Open the trackers for a run that stands at ``step``."""
        for name in self.names:
            self._try(name, self._start, name, step)

    def log(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Send the figures of a step as ``<split>/<name>``."""
        values = {f"{split}/{name}": value for name, value in metrics.items()}
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.log, values, step)

    def finish(self) -> None:
        """Close the trackers, so that nothing is left unsent."""
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.finish)
        self.open = {}

    def _try(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:  # Each tracker raises errors of its own.
            self.open.pop(name, None)
            logger.warning("the tracker %s failed, training goes on without it: %s", name, error)

    def _start(self, name: str, step: int) -> None:
        memory_file = self.run.path / MEMORY
        memory = json.loads(memory_file.read_text()) if memory_file.is_file() else {}
        memory.setdefault("id", secrets.token_hex(4))
        tracker = _make(name, self.run, memory, step)
        try:
            tracker.start()
        except Exception as error:
            if name != "wandb":
                raise
            # Without a key or a network it keeps its files, and can send them later.
            logger.warning("wandb goes on offline, send it with `wandb sync`: %s", error)
            tracker.init_kwargs["mode"] = "offline"
            tracker.start()
        self.open[name] = tracker
        if name == "tensorboard" or name in memory.get("started", []):
            return
        if name == "mlflow":
            memory["mlflow_run"] = tracker.tracker.info.run_id
        memory["started"] = [*memory.get("started", []), name]
        write_text(memory_file, json.dumps(memory))
        # Once: MLflow refuses an option that has another value after a resume.
        settings = yaml.safe_load((self.run.path / "config.yaml").read_text(encoding="utf-8"))
        plain = bool | int | float | str
        tracker.store_init_configuration(
            {
                key: value if isinstance(value, plain) else str(value)
                for key, value in flatten(settings).items()
            }
        )


def _make(name: str, run: RunFolder, memory: dict[str, Any], step: int) -> GeneralTracker:
    """Return a tracker that goes on with the entry that ``memory`` names, or begins it."""
    kind = LOGGER_TYPE_TO_CLASS[name]
    title = f"{run.path.name}-{memory['id']}"
    if name == "tensorboard":
        # What was written after the checkpoint is hidden: those steps are done again.
        return kind(".", str(run.path / "tensorboard"), purge_step=step + 1 if step else None)
    if name == "wandb":
        folder, project = str(run.path), os.environ.get("WANDB_PROJECT", PROJECT)
        return kind(project, id=memory["id"], name=title, dir=folder, resume="allow")
    if name == "mlflow":
        return kind(PROJECT, run_id=memory.get("mlflow_run"), run_name=title)
    if name == "trackio":
        return kind(PROJECT, name=title, resume="allow")
    return kind(PROJECT, str(run.path)) if kind.requires_logging_directory else kind(PROJECT)
