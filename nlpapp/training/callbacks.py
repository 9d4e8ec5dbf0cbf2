"""What happens now and then during training: progress, logs, curves, evaluation, early stopping.

Callbacks run in the order: progress, metrics, evaluation (which tells early stopping), curves,
checkpoints (`checkpointer`).
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from nlpapp.training.evaluate import means
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.schedules import schedule_position
from nlpapp.training.state import MetricSums, TrainerState, add_sums
from nlpapp.training.trackers import Trackers
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
    """A console bar with loss, tokens per second, and time left."""

    def __init__(self, *, description: str, enabled: bool) -> None:
        """Show the bar only where ``enabled`` (the main process)."""
        self.description, self.enabled = description, enabled
        self.bar: Any = None
        self.read, self.mark = 0.0, (0.0, 0.0)

    def on_start(self, trainer: Trainer) -> None:
        self.mark = (trainer.state.tokens, trainer.state.train_seconds)
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
        # Reading a loss makes the device wait, so that is for once a second.
        if self.enabled and sums and time.monotonic() - self.read >= 1.0:
            self.read = time.monotonic()
            self.bar.total = expected_steps(trainer)
            self.bar.set_postfix(self._figures(trainer, sums), refresh=False)
        self.bar.update(1)

    def _figures(self, trainer: Trainer, sums: MetricSums) -> dict[str, str]:
        """Return the loss of this process's share of the step, and the recent speed."""
        state = trainer.state
        means = {
            name: float(total) / max(float(count), 1.0) for name, (total, count) in sums.items()
        }
        figures = {}
        if "loss" in (summary := trainer.objective.summary(means)):
            figures["loss"] = f"{summary['loss']:.4g}"
        tokens, seconds = state.tokens - self.mark[0], state.train_seconds - self.mark[1]
        self.mark = (state.tokens, state.train_seconds)
        return figures | {"tokens/s": f"{tokens / max(seconds, 1e-9):,.0f}"}

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def expected_steps(trainer: Trainer) -> int:
    """Return the steps of the whole run, or those that its time will be enough for."""
    step, steps = trainer.state.step, trainer.max_steps
    seconds = trainer.checkpointer.run.seconds
    position = schedule_position(step, steps, seconds, max_hours=trainer.max_hours)
    return round(steps * step / max(1, position))


class MetricsLog(Callback):
    """Averages of the last ``every`` steps, to metrics.jsonl, the log and the trackers."""

    def __init__(
        self, run: RunFolder, *, every: int, tensorboard: bool, trackers: Sequence[str] = ()
    ) -> None:
        """Write a record each ``every`` optimizer steps; see `Trackers` for the last two."""
        self.run, self.every = run, every
        self.sums: MetricSums = {}
        self.mark = (0.0, 0.0)
        self.trackers = Trackers(run, trackers, tensorboard=tensorboard)

    def on_start(self, trainer: Trainer) -> None:
        self.mark = (trainer.state.tokens, trainer.state.train_seconds)
        self.trackers.start(trainer.state.step)

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        add_sums(self.sums, sums)
        if trainer.state.step % self.every == 0 or trainer.state.step == trainer.last_step:
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
        self.trackers.log(step, split, metrics)

    def on_evaluation(self, trainer: Trainer, metrics: dict[str, float], improved: bool) -> None:
        self._record(trainer.state.step, "evaluation", metrics)

    def close(self) -> None:
        self.trackers.finish()


class Curves(Callback):
    """Draws the curves of the run into its folder while it goes on.

    A picture is drawn when there is something new, seldom enough to cost at most a few percent of
    the time. One that cannot be drawn is told once, and never stops training.
    """

    def __init__(self, run: RunFolder, draw: Callable[[Path, Path], Any]) -> None:
        """``draw`` makes a PNG, the second path, from a metrics.jsonl, the first."""
        self.run, self.draw = run, draw
        self.size, self.next = 0, 0.0

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        if self.run.is_main and time.monotonic() >= self.next:
            records = self.run.path / "metrics.jsonl"
            size = records.stat().st_size if records.is_file() else 0
            if size != self.size:
                self.size = size
                self._draw(records)

    def _draw(self, records: Path) -> None:
        start = time.monotonic()
        try:
            self.draw(records, self.run.plots / "curves.png")
        except Exception as error:  # A picture is not worth a run.
            logger.warning("the curves cannot be drawn, training goes on without: %s", error)
            self.next = math.inf
            return
        end = time.monotonic()
        self.next = end + max(30.0, 50.0 * (end - start))


class Evaluation(Callback):
    """Evaluates each ``every`` steps (0: after each epoch), at the end, and maybe at the start."""

    def __init__(
        self,
        evaluate: Evaluate,
        *,
        every: int,
        at_start: bool,
        best_metric: str | None,
        greater_is_better: bool,
    ) -> None:
        """Call ``evaluate``; compare ``best_metric`` where one is given."""
        self.evaluate, self.every, self.at_start = evaluate, every, at_start
        self.best_metric, self.greater_is_better = best_metric, greater_is_better

    def on_start(self, trainer: Trainer) -> None:
        state = trainer.state
        if self.at_start and not state.step and not state.initial_metrics:
            with trainer.strategy.evaluating() as model:
                state.initial_metrics = self.evaluate(model)

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        state = trainer.state
        due = state.step % self.every == 0 if self.every else state.step_in_epoch == 0
        if due or state.step == trainer.last_step:
            self._run(trainer)

    def _run(self, trainer: Trainer) -> None:
        state = trainer.state
        with trainer.strategy.evaluating() as model:
            metrics = self.evaluate(model)
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
            trainer.state.ended_at = trainer.state.step
