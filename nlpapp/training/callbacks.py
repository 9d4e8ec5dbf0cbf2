"""What happens now and then during training: progress, logs, evaluation, checkpoints.

Callbacks run in the order: progress, metrics, evaluation (which tells early stopping), checkpoints.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from nlpapp.errors import CheckpointError
from nlpapp.training import checkpoint
from nlpapp.training.evaluate import means
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.state import MetricSums, TrainerState
from nlpapp.training.trainer import Trainer

logger = logging.getLogger("nlpapp")

Evaluate = Callable[[Any], dict[str, float]]
"""unwrapped model -> metrics; called on every process."""


class Callback:
    """Hooks that do nothing; a callback overrides those it needs."""

    def on_start(self, trainer: Trainer) -> None:
        """When training is about to start or to go on."""

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        """When a step is done; ``sums`` are this process's (sum, count) of each metric."""

    def on_evaluation(self, trainer: Trainer, metrics: dict[str, float], improved: bool) -> None:
        """When an evaluation is done."""

    def on_end(self, trainer: Trainer) -> None:
        """When the last step is done and training was not interrupted."""

    def close(self) -> None:
        """When training ends in any way."""


class ProgressBar(Callback):
    """A console bar with rate and time left."""

    def __init__(self, *, description: str, enabled: bool) -> None:
        """Show the bar only where ``enabled`` (the main process)."""
        self.description, self.enabled = description, enabled
        self.bar: Any = None

    def on_start(self, trainer: Trainer) -> None:
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.state.step,
            desc=self.description,
            unit="step",
            disable=not self.enabled,
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        self.bar.update(1)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class MetricsLog(Callback):
    """Averages of the last ``every`` steps, to metrics.jsonl, TensorBoard and the log."""

    def __init__(self, run: RunFolder, *, every: int, tensorboard: bool) -> None:
        """Write a record each ``every`` optimizer steps."""
        self.run, self.every = run, every
        self.sums: MetricSums = {}
        self.mark = (0.0, 0.0)
        self.writer = None
        if tensorboard and run.is_main:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.writer = SummaryWriter(str(run.path / "tensorboard"))

    def on_start(self, trainer: Trainer) -> None:
        self.mark = (trainer.state.tokens, trainer.state.train_seconds)

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        for name, (total, count) in sums.items():
            entry = self.sums.setdefault(name, [0.0, 0.0])
            # Tensors are added as tensors: reading them would make the device wait at every step.
            entry[0], entry[1] = entry[0] + total, entry[1] + count
        if trainer.state.step % self.every == 0 or trainer.state.step == trainer.max_steps:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        state = trainer.state
        values = {name: [float(total), float(count)] for name, (total, count) in self.sums.items()}
        metrics = trainer.objective.summary(means(values))
        tokens, seconds = state.tokens - self.mark[0], state.train_seconds - self.mark[1]
        metrics["learning_rate"] = trainer.learning_rate
        metrics["tokens_per_second"] = tokens / max(seconds, 1e-9)
        self.sums, self.mark = {}, (state.tokens, state.train_seconds)
        self._record(state.step, "train", metrics)

    def _record(self, step: int, split: str, metrics: dict[str, float]) -> None:
        self.run.log(step, split, metrics)
        if self.run.is_main:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            logger.info("step %d %s: %s", step, split, figures)
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(f"{split}/{name}", value, step)

    def on_evaluation(self, trainer: Trainer, metrics: dict[str, float], improved: bool) -> None:
        self._record(trainer.state.step, "evaluation", metrics)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Evaluation(Callback):
    """Evaluates each ``every`` steps (0: at each epoch's end) and at the end."""

    def __init__(
        self, evaluate: Evaluate, *, every: int, best_metric: str | None, greater_is_better: bool
    ) -> None:
        """Call ``evaluate``; compare ``best_metric`` where one is given."""
        self.evaluate, self.every = evaluate, every
        self.best_metric, self.greater_is_better = best_metric, greater_is_better
        self.last_step = -1

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        state = trainer.state
        due = state.step % self.every == 0 if self.every else state.step_in_epoch == 0
        if due or state.step == trainer.max_steps:
            self._run(trainer)

    def _run(self, trainer: Trainer) -> None:
        state = trainer.state
        metrics = self.evaluate(trainer.accelerator.unwrap_model(trainer.model))
        trainer.model.train()
        improved = self._is_improvement(state, metrics)
        state.last_metrics = metrics
        if improved:
            state.best_value = metrics[self.best_metric] if self.best_metric else None
            state.best_step, state.best_metrics = state.step, metrics
        state.evaluations_without_improvement = (
            0 if improved else state.evaluations_without_improvement + 1
        )
        for callback in trainer.callbacks:
            callback.on_evaluation(trainer, metrics, improved)

    def _is_improvement(self, state: TrainerState, metrics: dict[str, float]) -> bool:
        if self.best_metric is None:
            return False
        value = metrics[self.best_metric]
        if math.isnan(value):
            return False
        if state.best_value is None:
            return True
        return value > state.best_value if self.greater_is_better else value < state.best_value


class EarlyStopping(Callback):
    """Stops after ``patience`` evaluations in a row without an improvement."""

    def __init__(self, *, patience: int) -> None:
        """``patience`` is in evaluations, at least 1."""
        self.patience = patience

    def on_evaluation(self, trainer: Trainer, metrics: dict[str, float], improved: bool) -> None:
        if trainer.state.evaluations_without_improvement >= self.patience:
            logger.info("no improvement in %d evaluations: stopping early", self.patience)
            trainer.should_stop = True


class Checkpointer(Callback):
    """Saves and loads the whole training state.

    A checkpoint is written each ``every`` steps (0: at each evaluation), at every improvement, and
    at the end; the last ``keep`` and the best are kept.
    """

    def __init__(self, run: RunFolder, *, every: int, keep: int, fingerprint: str | None) -> None:
        """Write below ``run.checkpoints``; ``fingerprint`` is the tokenizer's."""
        self.run, self.every, self.keep, self.fingerprint = run, every, keep, fingerprint
        self.due = False

    def on_evaluation(self, trainer: Trainer, metrics: dict[str, float], improved: bool) -> None:
        self.due = self.due or improved or not self.every

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        state = trainer.state
        scheduled = bool(self.every) and state.step % self.every == 0
        if self.due or scheduled or state.step == trainer.max_steps:
            self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Save the state after the current step; returns the checkpoint's folder."""
        accelerator, step = trainer.accelerator, trainer.state.step
        self.due = False
        folder = self.run.checkpoints / f"step-{step}"
        try:
            checkpoint.write_rank(
                self.run.checkpoints, step, accelerator.process_index, trainer.carry
            )
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                self._write_main(trainer)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise checkpoint.explain_write_failure(error, self.run.checkpoints, step) from error
        accelerator.wait_for_everyone()
        return folder

    def _write_main(self, trainer: Trainer) -> None:
        scaler = trainer.accelerator.scaler
        optimizer = {
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        state = {
            "trainer": dataclasses.asdict(trainer.state),
            "seconds": self.run.seconds,
            "world_size": trainer.accelerator.num_processes,
            "tokenizer_fingerprint": self.fingerprint,
        }
        model = trainer.accelerator.unwrap_model(trainer.model)
        step = trainer.state.step
        checkpoint.write_main(self.run.checkpoints, step, model, optimizer, state)
        checkpoint.prune(self.run.checkpoints, keep=self.keep, best_step=trainer.state.best_step)

    def newest(self) -> Path | None:
        """Return the newest sound checkpoint of this run."""
        return checkpoint.newest_sound(self.run.checkpoints)

    def load(self, trainer: Trainer, folder: Path) -> None:
        """Restore everything that `save` wrote.

        Raises:
            CheckpointError: the checkpoint belongs to another model or tokenizer, or is damaged.
        """
        checkpoint.verify(folder)
        state = checkpoint.read_state(folder)
        if state["tokenizer_fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"the checkpoint {folder} was trained with another tokenizer than the one given"
            )
        accelerator = trainer.accelerator
        checkpoint.load_weights(folder, accelerator.unwrap_model(trainer.model))
        saved = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
        trainer.optimizer.load_state_dict(saved["optimizer"])
        if accelerator.scaler is not None and saved["scaler"]:
            accelerator.scaler.load_state_dict(saved["scaler"])
        trainer.state = TrainerState(**state["trainer"])
        carry = checkpoint.read_rank(folder, accelerator.process_index, accelerator.device)
        if carry is not None and state["world_size"] == accelerator.num_processes:
            trainer.carry = carry
        self.run.rewind(trainer.state.step, state["seconds"])
        logger.info("going on from %s", os.fspath(folder))
