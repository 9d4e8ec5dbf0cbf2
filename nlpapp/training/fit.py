"""From options to a trained model: optimizer, schedule, callbacks and resume around the loop."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from nlpapp import seeding
from nlpapp.data.sampling import StepData
from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.objectives.step import Objective
from nlpapp.training.callbacks import (
    Callback,
    Curves,
    EarlyStopping,
    Evaluate,
    Evaluation,
    MetricsLog,
    ProgressBar,
)
from nlpapp.training.checkpoint import newest_sound
from nlpapp.training.checkpointer import Checkpointer
from nlpapp.training.optimizers import OptimizerConfig, build_optimizer
from nlpapp.training.processes import on_cpu_group, process_state
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.schedules import ScheduleConfig
from nlpapp.training.sharding import Strategy, model_to_train, sharding_plugin, will_shard
from nlpapp.training.speed_report import SpeedReport
from nlpapp.training.trainer import Trainer
from nlpapp.training.zero import ZeroStrategy, zero_plugin

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how to train; the same options for every command that trains."""

    max_steps: int | None = None
    """Optimizer steps; when absent, num_epochs decides."""
    num_epochs: float = 3.0
    """Passes over the training data, where max_steps is absent; may be a fraction."""
    max_hours: float | None = None
    """Most hours of training and evaluation, those before a resume included: the learning rate then
    falls by the clock where that is ahead of the steps, and reaches its end when time is up."""
    gradient_accumulation_steps: int = 1
    """Micro-batches that a process runs for one optimizer step; batch_size is split over them."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 turns clipping off."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Arithmetic of the forward pass; weights and optimizer stay float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a
    third more time."""
    compile: bool = False
    """Compile the model (torch.compile): the first steps take long, the others less."""
    log_every: int = 50
    """Optimizer steps between two records of training metrics."""
    evaluate_every: int = 0
    """Optimizer steps between two evaluations; 0: at the end of each epoch."""
    checkpoint_every: int = 0
    """Optimizer steps between two checkpoints; 0: at each evaluation, and at the end."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk, beside the best."""
    early_stopping_patience: int = 0
    """Stop after this many evaluations in a row without improvement; 0: never."""
    resume: str = "auto"
    """auto: go on from the newest sound checkpoint; never: start anew; or a checkpoint's folder."""
    num_workers: int = 0
    """Processes that prepare batches beside the training; 0: the training process does it."""
    tensorboard: bool = True
    """Write TensorBoard event files to <output_dir>/tensorboard."""
    trackers: list[str] = field(default_factory=list)
    """Trackers beside TensorBoard: wandb, mlflow, trackio, each where its package is installed."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW or LAMB."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning-rate schedule."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"training.max_steps is {self.max_steps}; it must be at least 1")
        if self.max_steps is None and not self.num_epochs > 0:
            raise ConfigError(f"training.num_epochs is {self.num_epochs}; it must be over 0")
        if self.max_hours is not None and not self.max_hours > 0:
            raise ConfigError(f"training.max_hours is {self.max_hours}; it must be over 0")
        for key in ("gradient_accumulation_steps", "log_every", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ConfigError(f"training.{key} is {getattr(self, key)}; it must be at least 1")
        for key in (
            *("evaluate_every", "checkpoint_every", "early_stopping_patience", "num_workers"),
            "max_grad_norm",
        ):
            if not getattr(self, key) >= 0:  # Also where it is not a number.
                raise ConfigError(f"training.{key} is {getattr(self, key)}; it must be 0 or more")

    def total_steps(self, steps: StepData) -> int:
        """Return the number of optimizer steps of the whole run over ``steps``."""
        if self.max_steps is not None:
            return self.max_steps
        whole = int(self.num_epochs)  # Epochs of batches under a token budget are not all alike.
        total = float(sum(steps.num_steps(epoch) for epoch in range(whole)))
        if self.num_epochs > whole:
            total += (self.num_epochs - whole) * steps.num_steps(whole)
        return max(1, math.ceil(total))

    def costs(self) -> dict[str, Any]:
        """Return what decides, beside model and data, on the memory that a process needs."""
        return {
            "optimizer": self.optimizer.name,
            "precision": self.precision,
            "gradient_checkpointing": self.gradient_checkpointing,
            "on_cpu": process_state().device.type == "cpu",
            "sharded": will_shard(),
        }


def set_seed(seed: int, *names: str | int) -> None:
    """Seed torch's generators (weights, dropout) with the stream called ``names``."""
    torch.manual_seed(seeding.derive_seed(seed, *names))


def fit(
    *,
    run: RunFolder,
    model: torch.nn.Module,
    objective: Objective,
    steps: StepData,
    training: TrainingConfig,
    seed: int,
    evaluate: Evaluate | None = None,
    evaluate_at_start: bool = False,
    best_metric: str | None = None,
    greater_is_better: bool = True,
    fingerprint: str | None = None,
    data_fingerprint: str | None = None,
    flops_per_token: float | None = None,
    draw_curves: Callable[[Path, Path], Any] | None = None,
) -> dict[str, float]:
    """Train ``model`` on ``steps`` and return its figures.

    Args:
        run: where metrics and checkpoints go.
        model: trained in place; afterwards it holds the best weights where ``best_metric`` is
            given, the last ones otherwise, on the CPU or device that trained it.
        objective: what to minimise.
        steps: training data.
        training: length, optimizer, schedule, logging, checkpoints.
        seed: of dropout; the order of data is the business of ``steps``.
        evaluate: gives metrics of the unwrapped model; called on all processes.
        evaluate_at_start: call it before the first step too; its metrics are "initial_<name>".
        best_metric: a name in these metrics that chooses the best weights.
        greater_is_better: whether more of ``best_metric`` is better.
        fingerprint: the tokenizer's, kept in checkpoints.
        data_fingerprint: the training data's, kept in checkpoints.
        flops_per_token: of the model, forward and backward; adds "model_flops_utilization".
        draw_curves: makes a PNG (second path) of a metrics.jsonl (first) while training goes on.

    Returns:
        The metrics of the best (or last) evaluation, and "steps", "tokens", "seconds",
        "tokens_per_second".

    Raises:
        Interrupted: a stop signal came; the state was saved.
        TrainingError: a loss or gradient was not finite, or a batch too large.
        CheckpointError: a checkpoint could not be written, or the one to resume from does not fit.
    """
    # A process may train several models one after the other with different precisions.
    AcceleratorState._reset_state()
    zero = zero_plugin(training.max_grad_norm)
    accelerator = Accelerator(
        mixed_precision="no" if training.precision == "float32" or zero else training.precision,
        cpu=on_cpu_group(),
        fsdp_plugin=sharding_plugin(training.precision),
        deepspeed_plugin=zero,
    )
    set_seed(seed, "training", accelerator.process_index)
    # A model that will be cut into pieces is not put whole beside them on the device.
    to_train = model_to_train(accelerator, model).to(accelerator.device)
    strategy = _prepare(accelerator, to_train, training)
    checkpointer = Checkpointer(
        run,
        every=training.checkpoint_every,
        keep=training.keep_checkpoints,
        fingerprint=fingerprint,
        data_fingerprint=data_fingerprint,
    )
    speed = SpeedReport(
        flops_per_token=flops_per_token, precision=training.precision, compiled=training.compile
    )
    trainer = Trainer(
        strategy=strategy,
        objective=objective,
        steps=steps,
        max_steps=training.total_steps(steps),
        max_hours=training.max_hours,
        schedule=training.schedule,
        accumulation=training.gradient_accumulation_steps,
        max_grad_norm=training.max_grad_norm,
        num_workers=training.num_workers,
        resume=training.resume,
        callbacks=[
            ProgressBar(description=run.path.name, enabled=run.is_main),
            speed,
            MetricsLog(
                run,
                every=training.log_every,
                tensorboard=training.tensorboard,
                trackers=training.trackers,
            ),
            *_evaluation(training, evaluate, evaluate_at_start, best_metric, greater_is_better),
            *([Curves(run, draw_curves)] if draw_curves is not None else []),
            checkpointer,
        ],
        checkpointer=checkpointer,
    )
    _resume(trainer, checkpointer, training.resume, run)
    trainer.fit()
    metrics = _result(trainer, run, speed, best_metric)
    if to_train is not model:
        strategy.copy_weights(model)
    return metrics


def _prepare(
    accelerator: Accelerator, model: torch.nn.Module, training: TrainingConfig
) -> Strategy:
    if training.gradient_checkpointing:
        _checkpoint_gradients(model)
    if training.compile:
        model.compile(dynamic=True)  # In place: the names of the weights stay.
    optimizer = build_optimizer(model, training.optimizer)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return ZeroStrategy(
            accelerator, model, optimizer, training.precision, compiled=training.compile
        )
    return Strategy(accelerator, model, optimizer)


def _checkpoint_gradients(model: torch.nn.Module) -> None:
    module: Any
    for module in model.modules():
        if getattr(module, "supports_gradient_checkpointing", False):
            # The other way, reentrant, needs inputs with gradients, which token ids have not.
            module.gradient_checkpointing_enable({"use_reentrant": False})
            return
    raise ConfigError(
        f"training.gradient_checkpointing is on, but {type(model).__name__} has none; leave it out"
    )


def _evaluation(
    training: TrainingConfig,
    evaluate: Evaluate | None,
    at_start: bool,
    best_metric: str | None,
    greater_is_better: bool,
) -> list[Callback]:
    callbacks: list[Callback] = []
    if evaluate is not None:
        callbacks.append(
            Evaluation(
                evaluate,
                every=training.evaluate_every,
                at_start=at_start,
                best_metric=best_metric,
                greater_is_better=greater_is_better,
            )
        )
    if training.early_stopping_patience:
        if best_metric is None:
            raise ConfigError(
                "early_stopping_patience needs an evaluation with a metric to compare"
            )
        callbacks.append(EarlyStopping(patience=training.early_stopping_patience))
    return callbacks


def resumes(run: RunFolder, resume: str) -> bool:
    """Say whether `fit` will load a checkpoint, so that it does not matter how weights start.

    Args:
        run: the run's folder.
        resume: the option `TrainingConfig.resume`.
    """
    return resume != "never" and (resume != "auto" or newest_sound(run.checkpoints) is not None)


def _resume(trainer: Trainer, checkpointer: Checkpointer, resume: str, run: RunFolder) -> None:
    if resume == "never":
        if run.is_main:
            run.rewind(-1, 0.0)
        return
    folder = checkpointer.newest() if resume == "auto" else Path(resume)
    if folder is not None and not folder.is_dir():
        raise CheckpointError(f"training.resume: there is no checkpoint {folder}")
    if folder is not None:
        checkpointer.load(trainer, folder)
    elif run.is_main:
        run.rewind(-1, 0.0)


def _result(
    trainer: Trainer, run: RunFolder, speed: SpeedReport, best_metric: str | None
) -> dict[str, float]:
    state = trainer.state
    metrics = dict(state.last_metrics)
    if best_metric is not None and state.best_step is not None:
        metrics = dict(state.best_metrics) | {"best_step": float(state.best_step)}
        if state.best_step != state.step:
            folder = run.checkpoints / f"step-{state.best_step}"
            trainer.checkpointer.load_weights(trainer, folder)
    metrics |= {f"initial_{name}": value for name, value in state.initial_metrics.items()}
    metrics["steps"] = float(state.step)
    metrics["tokens"] = state.tokens
    metrics["seconds"] = run.seconds
    metrics["tokens_per_second"] = state.tokens / max(state.train_seconds, 1e-9)
    utilization = speed.utilization(trainer, metrics["tokens_per_second"])
    if utilization is not None:
        metrics["model_flops_utilization"] = utilization
    trainer.accelerator.wait_for_everyone()
    return metrics
