"""Steps that cannot be done: a loss or gradient that is not finite, a batch over the memory."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nlpapp.data.sampling import ExampleSteps
from nlpapp.disk import write_text
from nlpapp.errors import TrainingError
from nlpapp.objectives.step import Batch
from nlpapp.training.state import MetricSums

if TYPE_CHECKING:
    from nlpapp.training.trainer import Trainer

ALLOCATION_FAILURES = (
    "can't allocate memory",  # the CPU allocator of PyTorch
    "not enough memory",  # the same on Windows
    "out of memory",  # MPS, and libraries of CUDA
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What errors without a class of their own say when memory is short."""


def check_finite(
    trainer: "Trainer",
    micro_batches: list[Batch],
    losses: list[torch.Tensor],
    sums: MetricSums,
    norm: torch.Tensor | None,
) -> None:
    """Stop the run if the step's loss or gradient is not finite; leave its batch for inspection.

    Call it on all processes. Each one whose own part of the loss is not finite, or all where it is
    the gradient alone, write
    ``<run>/not_finite/step-<n>-rank-<r>.json``: epoch and step, the indices of the examples in the
    data, the losses of the micro-batches, the sum and count of each metric, and the tensors.

    Args:
        trainer: where training stands; the step is not counted yet.
        micro_batches: this process's part of the step.
        losses: the share of the loss of each of them.
        sums: (sum, count) of each metric over them.
        norm: of the step's gradient, the same on all processes; None where it is not known.

    Raises:
        TrainingError: one of them is not finite; the message names the folder.
    """
    loss = torch.stack(losses).sum()
    # Both in one exchange, as a device waits at each.
    both = loss[None] if norm is None else torch.stack([loss, norm.to(loss.device)])
    totals = trainer.accelerator.reduce(both, reduction="sum").tolist()
    if all(map(math.isfinite, totals)):
        return
    what, value = next(
        (what, value)
        for what, value in zip(("loss", "gradient's norm"), totals, strict=False)
        if not math.isfinite(value)
    )
    folder = trainer.checkpointer.run.path / "not_finite"
    # A disk that is full as well must not hide why training stopped.
    with contextlib.suppress(OSError):
        if what != "loss" or not math.isfinite(loss.item()):
            _leave_batch(folder, trainer, micro_batches, losses, sums)
    trainer.accelerator.wait_for_everyone()
    raise TrainingError(
        f"the {what} of step {trainer.state.step + 1} is {value}; stopped before the update. Its "
        f"batch is in {folder}. Last checkpoint: {_last_checkpoint(trainer)}. "
        "Lower the learning rate, check the data, or leave fp16."
    )


def _leave_batch(
    folder: Path,
    trainer: "Trainer",
    micro_batches: list[Batch],
    losses: list[torch.Tensor],
    sums: MetricSums,
) -> None:
    state, accelerator = trainer.state, trainer.accelerator
    examples = None  # Segments of a running text have no numbers: step and rank say which they are.
    # Steps that only add something to the batches of others hold these as ``steps``.
    steps = getattr(trainer.steps, "steps", trainer.steps)
    if isinstance(steps, ExampleSteps):
        parts = steps.examples(
            state.epoch,
            state.step_in_epoch,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulation=trainer.accumulation,
        )
        examples = [part.tolist() for part in parts]
    record = {
        "step": state.step + 1,
        "epoch": state.epoch,
        "step_in_epoch": state.step_in_epoch,
        "rank": accelerator.process_index,
        "examples": examples,
        # As words, since JSON has no number for nan.
        "losses": [str(loss.item()) for loss in losses],
        "metrics": {
            name: [str(float(total)), str(float(count))] for name, (total, count) in sums.items()
        },
        "micro_batches": [
            {name: tensor.tolist() for name, tensor in batch.items()} for batch in micro_batches
        ],
    }
    folder.mkdir(exist_ok=True)
    name = f"step-{state.step + 1}-rank-{accelerator.process_index}.json"
    write_text(folder / name, json.dumps(record))


@contextlib.contextmanager
def memory_advice(trainer: "Trainer") -> Iterator[None]:
    """Turn a failure to get memory into a `TrainingError` that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["no memory left"])[0]
        raise TrainingError(
            f"step {trainer.state.step + 1} does not fit into memory: {reason} "
            "Let a process hold less at once: more training.gradient_accumulation_steps (now "
            f"{trainer.accumulation}; the step stays as large, in smaller parts), "
            "training.gradient_checkpointing, or more processes; the same command with these goes "
            f"on from the last checkpoint, which is {_last_checkpoint(trainer)}. In a new "
            "output_dir: training.precision bf16, shorter sequences, a smaller batch, and a "
            "smaller evaluation batch if it happened in an evaluation."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    own_class = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return own_class or any(words in str(error) for words in ALLOCATION_FAILURES)


def _last_checkpoint(trainer: "Trainer") -> Path | str:
    return trainer.checkpointer.newest() or "not written yet"
