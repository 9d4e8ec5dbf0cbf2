"""Training in phases: one run after the other, each going on with the model of the one before."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlpapp.disk import write_text
from nlpapp.errors import ConfigError
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.hub import HubConfig
from nlpapp.training.processes import process_state
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.schedules import ScheduleConfig

SUMMED = ("steps", "tokens", "seconds")
RUN_FOLDERS = {"checkpoints", "model", "plots", "tensorboard"}
"""Folders of a run that the folder of a phase must not be."""


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """One phase of pretraining, such as 128 and then 512 tokens; what is left out is the run's."""

    name: str
    """Folder of the phase, in output_dir."""
    data: str
    """Folder that make-data wrote: the training data of the phase."""
    evaluation_data: str | None = None
    """Folder that make-data wrote from held-out text."""
    batch_size: int | None = None
    """Sequences in one optimizer step."""
    tokens_per_batch: int | None = None
    """Padded tokens in one optimizer step at most."""
    max_steps: int | None = None
    """Optimizer steps of the phase."""
    num_epochs: float | None = None
    """Passes over the phase's data."""
    max_hours: float | None = None
    """Most hours of the phase."""
    gradient_accumulation_steps: int | None = None
    """Micro-batches of a step."""
    learning_rate: float | None = None
    """Peak learning rate."""
    schedule: ScheduleConfig | None = None
    """Learning-rate schedule of the phase; what it leaves out is as in a run without a schedule."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.tokens_per_batch is not None:
            raise ConfigError(
                f"the phase '{self.name}' has batch_size {self.batch_size} and tokens_per_batch "
                f"{self.tokens_per_batch}; give one of them"
            )
        if self.max_steps is not None and self.num_epochs is not None:
            raise ConfigError(
                f"the phase '{self.name}' has max_steps {self.max_steps} and num_epochs "
                f"{self.num_epochs}; give one of them"
            )

    def training(self, of_run: TrainingConfig) -> TrainingConfig:
        """Return the training options of this phase of a run with the options ``of_run``.

        Raises:
            ConfigError: ``of_run`` has a time limit, or a checkpoint to go on from; it would be
                that of each phase.
        """
        if of_run.max_hours is not None:
            raise ConfigError(
                f"training.max_hours is {of_run.max_hours}, but there are phases; give each of "
                "them its own max_hours"
            )
        if of_run.resume not in ("auto", "never"):
            raise ConfigError(
                f"training.resume is {of_run.resume}, a checkpoint of one phase, but there are "
                "phases; expected auto, which goes on from the newest checkpoint of the one that "
                "is not complete, or never. To go on from an earlier one, remove those after it"
            )
        own = {
            name: value
            for name in (
                *("max_steps", "num_epochs", "max_hours", "gradient_accumulation_steps"),
                "schedule",
            )
            if (value := getattr(self, name)) is not None
        }
        if self.num_epochs is not None:
            own["max_steps"] = None
        if self.learning_rate is not None:
            own["optimizer"] = dataclasses.replace(
                of_run.optimizer, learning_rate=self.learning_rate
            )
        return dataclasses.replace(of_run, **own)

    def config(self, of_run: Any, *, output_dir: Path, model: str | None) -> Any:
        """Return the command's Config for this phase alone, which starts from ``model``."""
        own = {
            name: value
            for name in ("batch_size", "tokens_per_batch")
            if (value := getattr(self, name)) is not None
        }
        if self.batch_size is not None:
            own["tokens_per_batch"] = None
        return dataclasses.replace(
            of_run,
            phases=None,
            hub=HubConfig(),  # The model of the last phase is pushed as that of the whole.
            data=self.data,
            evaluation_data=self.evaluation_data,
            output_dir=str(output_dir),
            model=model,
            training=self.training(of_run.training),
            **own,
        )


def check_phases(
    phases: Sequence[PhaseConfig],
    length_of: Callable[[str], int],
    positions: int,
    check: Callable[[PhaseConfig], Any],
) -> None:
    """Refuse phases that cannot follow each other, before the first one takes its time.

    Args:
        phases: in their order.
        length_of: data folder -> its longest instance in tokens; raises where it cannot be used.
        positions: the longest sequence that the model can read.
        check: raises a ConfigError where the options of a phase cannot be run.

    Raises:
        ConfigError: it names the phase and the way out.
    """
    names = [phase.name for phase in phases]
    plain = all(name not in ("", "..", *RUN_FOLDERS) and Path(name).name == name for name in names)
    if len(set(names)) < len(names) or not plain:
        raise ConfigError(
            f"phases are named {names}: expected different names of folders, other than "
            f"{', '.join(sorted(RUN_FOLDERS))}"
        )
    before = 0
    for index, phase in enumerate(phases):
        length = length_of(phase.data)
        if length < before:
            raise ConfigError(
                f"the phase '{phase.name}' has sequences of {length} tokens, shorter than the "
                f"{before} of '{names[index - 1]}' before it; phases go from short to long: "
                "change their order, or make longer data"
            )
        before = length
        longest = max(length, length_of(phase.evaluation_data) if phase.evaluation_data else 0)
        if longest > positions:
            raise ConfigError(
                f"the phase '{phase.name}' has sequences of {longest} tokens, but the model has "
                f"{positions} positions; set size.max_position_embeddings to {longest}, or make "
                "shorter data"
            )
        try:
            check(phase)
        except ConfigError as error:
            raise ConfigError(f"the phase '{phase.name}': {error}") from error


def run_phases(
    run: RunFolder, phases: Sequence[PhaseConfig], train: Callable[[PhaseConfig, str | None], Any]
) -> dict[str, float]:
    """Train one phase after the other, and return the figures of the whole.

    A phase that is complete returns its figures at once, so that a restart goes on with the one
    that is not.

    Args:
        run: of the whole; it gets the phases' records.
        phases: in their order.
        train: (phase, folder of the model before it) -> its figures; None at the first.
    """
    figures: dict[str, dict[str, float]] = {}
    model = None
    for phase in phases:
        figures[phase.name] = train(phase, model)
        process_state().wait_for_everyone()  # The main process alone saves the model.
        model = str(run.path / phase.name / "model")
    if run.is_main:
        join_records(run, figures)
    run.take_log()  # The phases took it.
    return join_metrics(figures)


def join_metrics(phases: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of the whole: the last phase's, sums, and each phase's with its name."""
    joined: dict[str, float] = {}
    for name, metrics in phases.items():
        joined |= {f"{name}_{key}": value for key, value in metrics.items()}
    *_, last = phases.values()
    joined |= {key: value for key, value in last.items() if not key.startswith("initial_")}
    for key in SUMMED:
        joined[key] = sum(metrics[key] for metrics in phases.values())
    training = sum(own["tokens"] / max(own["tokens_per_second"], 1e-9) for own in phases.values())
    joined["tokens_per_second"] = joined["tokens"] / max(training, 1e-9)
    return joined


def join_records(run: RunFolder, phases: Mapping[str, Mapping[str, float]]) -> None:
    """Write metrics.jsonl and train.log of ``run``: those of its phases, one after the other.

    After a kill it may be done again: what was joined before is not repeated.
    """
    lines, logs = [], []
    steps = seconds = 0.0
    for name, metrics in phases.items():
        folder = run.path / name
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            record["step"] += int(steps)
            record["seconds"] = round(record["seconds"] + seconds, 3)
            lines.append(json.dumps(record) + "\n")
        steps, seconds = steps + metrics["steps"], seconds + metrics["seconds"]
        logs.append((folder / "train.log").read_text(encoding="utf-8"))
    write_text(run.path / "metrics.jsonl", "".join(lines))
    before, joined = (run.path / "train.log").read_text(encoding="utf-8"), "".join(logs)
    known = set(joined.splitlines(keepends=True))
    own = [line for line in before.splitlines(keepends=True) if line not in known]
    write_text(run.path / "train.log", "".join(own) + joined)
