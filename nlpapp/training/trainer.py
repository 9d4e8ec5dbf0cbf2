"""The loop of all jobs: pretraining, fine-tuning, distillation, language models.

A step reads its micro-batches, sums their gradients into the mean over the whole step's
predictions, and updates once. Everything that happens now and then (logging, evaluation,
checkpoints) is a callback.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nlpapp.data.sampling import StepData
from nlpapp.errors import Interrupted
from nlpapp.objectives.step import Batch, Objective
from nlpapp.training.checkpoint import to_device
from nlpapp.training.schedules import ScheduleConfig, learning_rate_factor, schedule_position
from nlpapp.training.sharding import Strategy
from nlpapp.training.signals import StopSignals
from nlpapp.training.state import MetricSums, TrainerState, add_sums
from nlpapp.training.step_data import StepTotals, largest, load_epoch, step_totals
from nlpapp.training.step_faults import check_finite, memory_advice

if TYPE_CHECKING:
    from nlpapp.training.callbacks import Callback
    from nlpapp.training.checkpointer import Checkpointer


class Trainer:
    """Runs ``steps`` through ``objective`` and ``model`` to the end of steps or of the time."""

    def __init__(
        self,
        *,
        strategy: Strategy,
        objective: Objective,
        steps: StepData,
        max_steps: int,
        schedule: ScheduleConfig,
        accumulation: int,
        max_grad_norm: float,
        num_workers: int,
        resume: str,
        callbacks: Sequence["Callback"],
        checkpointer: "Checkpointer",
        max_hours: float | None = None,
    ) -> None:
        """Keep the parts; ``strategy`` has model and optimizer, prepared for these processes."""
        self.strategy, self.accelerator = strategy, strategy.accelerator
        self.model, self.optimizer = strategy.model, strategy.optimizer
        self.objective, self.steps, self.max_steps = objective, steps, max_steps
        self.schedule, self.accumulation = schedule, accumulation
        self.max_grad_norm, self.num_workers, self.resume = max_grad_norm, num_workers, resume
        self.callbacks, self.checkpointer, self.max_hours = callbacks, checkpointer, max_hours
        self.state, self.learning_rate = TrainerState(), 0.0
        self.carry: list[Any] = [None] * accumulation

    def fit(self) -> None:
        """Train to the end, or until a callback asks to stop.

        Raises:
            Interrupted: SIGTERM or SIGINT came; the state was saved.
            TrainingError: a loss or gradient was not finite, or a batch too large; no update.
        """
        self.model.train()
        try:
            with memory_advice(self), StopSignals() as signals:
                for callback in self.callbacks:
                    callback.on_start(self)
                while not self._is_done():
                    self._run_epoch(signals)
                # One that came during the last step: what follows on this run is not begun.
                if number := largest(self.accelerator, signals.received):
                    self._stop(number)
            for callback in self.callbacks:
                callback.on_end(self)
        finally:
            for callback in self.callbacks:
                callback.close()

    def _run_epoch(self, signals: StopSignals) -> None:
        start, run = time.perf_counter(), self.checkpointer.run
        rest = (self.state.epoch, self.state.step_in_epoch, self.accumulation, self.num_workers)
        for micro_batches in load_epoch(self.steps, self.accelerator, *rest):
            known: dict[str, Any] = {"signal_number": signals.received, "seconds": run.seconds}
            totals = step_totals(self.accelerator, self.objective, micro_batches, **known)
            self._schedule(totals.seconds)
            metrics: MetricSums = {}
            if totals.is_complete:
                metrics = self._train_step(micro_batches, totals)
                self.state.tokens += totals.tokens
            # A last step with fewer examples than processes is passed over.
            self._advance()
            self.state.train_seconds += time.perf_counter() - start
            for callback in self.callbacks:
                callback.on_step(self, metrics)
            if totals.signal_number:
                self._stop(totals.signal_number)
            if self._is_done() or not self.state.step_in_epoch:
                return
            start = time.perf_counter()

    def _is_done(self) -> bool:
        return self.state.step >= self.last_step

    @property
    def last_step(self) -> int:
        """The step after which training ends, as far as is known."""
        ended = self.state.ended_at
        return self.max_steps if ended is None else min(ended, self.max_steps)

    def _advance(self) -> None:
        state = self.state
        state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
        if state.step_in_epoch == self.steps.num_steps(state.epoch):
            state.epoch, state.step_in_epoch = state.epoch + 1, 0

    def _schedule(self, seconds: float) -> None:
        """Set the rate of this step; if the time is up, the step is the last."""
        step, steps = self.state.step, self.max_steps
        position = schedule_position(step, steps, seconds, max_hours=self.max_hours)
        factor = learning_rate_factor(self.schedule, position, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
        if position >= steps:
            self.state.ended_at = step + 1

    def _train_step(self, micro_batches: list[Batch], totals: StepTotals) -> MetricSums:
        """Do one optimizer step; return this process's sum and count of each metric."""
        sums: MetricSums = {}
        losses = []
        for index, batch in enumerate(micro_batches):
            batch = to_device(batch, self.accelerator.device)
            with self.strategy.micro_batch(last=index == len(micro_batches) - 1):
                output = self.objective(self.model, batch, totals.counts, self.carry[index])
                # Processes' gradients are averaged; the loss is a sum over processes.
                self.strategy.backward(output.loss * self.accelerator.num_processes)
            self.carry[index] = output.carry
            losses.append(output.loss.detach())
            add_sums(sums, output.metrics)
        norm = self.strategy.clip(self.max_grad_norm)
        check_finite(self, micro_batches, losses, sums, norm)
        self.strategy.update()
        return sums

    def _stop(self, number: int) -> None:
        saved = f"after step {self.state.step}; saved {self.checkpointer.save(self)}"
        auto = "" if self.resume == "auto" else " with training.resume auto"
        message = f"stopped by signal {number} {saved}. The same command{auto} goes on from there."
        raise Interrupted(message, signal_number=number)
