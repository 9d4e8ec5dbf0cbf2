"""Between data and loop: the rest of an epoch, and a step's totals over all processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from nlpapp.data.sampling import StepData
from nlpapp.errors import DataError
from nlpapp.objectives.step import Batch, Objective

MOST_TERMS = 8
"""Loss terms that an objective may have."""


class _EpochRest(torch.utils.data.Dataset):
    """The steps that are left of an epoch, one item a step: this process's micro-batches."""

    def __init__(
        self, steps: StepData, epoch: int, start: int, accelerator: Accelerator, accumulation: int
    ) -> None:
        self.steps, self.epoch, self.start = steps, epoch, start
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.accumulation = accumulation

    def __len__(self) -> int:
        return self.steps.num_steps(self.epoch) - self.start

    def __getitem__(self, index: int) -> list[Batch]:
        if index >= len(self):
            raise IndexError(index)
        return self.steps.micro_batches(
            self.epoch,
            self.start + index,
            rank=self.rank,
            world_size=self.world_size,
            accumulation=self.accumulation,
        )


def load_epoch(
    steps: StepData,
    accelerator: Accelerator,
    epoch: int,
    start: int,
    accumulation: int,
    num_workers: int,
) -> Iterator[list[Batch]]:
    """Yield this process's micro-batches for each step of ``epoch`` from step ``start`` on."""
    # Its own generator: the loader must not draw from the one that dropout uses, or a resumed run
    # would see other random numbers than one that was not interrupted.
    return iter(
        torch.utils.data.DataLoader(
            _EpochRest(steps, epoch, start, accelerator, accumulation),
            batch_size=None,
            num_workers=num_workers,
            generator=torch.Generator(),
        )
    )


@dataclass(frozen=True, kw_only=True)
class StepTotals:
    """What all processes together know about one step before it runs."""

    counts: dict[str, float]
    """Predictions of each loss term."""
    tokens: float
    """Real (unpadded) tokens."""
    signal_number: int
    """A stop signal that some process received, or 0."""
    seconds: float
    """Time spent on the run, by the main process's clock."""
    is_complete: bool
    """Whether every process has data; a last step may have fewer examples than processes."""


def step_totals(
    accelerator: Accelerator,
    objective: Objective,
    micro_batches: list[Batch],
    *,
    signal_number: int,
    seconds: float,
) -> StepTotals:
    """Add up predictions, tokens and signals over the step's micro-batches and processes.

    One exchange of a few numbers a step: it is what makes the loss the mean over the whole step,
    and what makes all processes stop at the same one.

    Args:
        accelerator: the processes.
        objective: counts predictions.
        micro_batches: this process's part of the step.
        signal_number: a stop signal that this process received, or 0.
        seconds: this process's clock.

    Raises:
        DataError: no process has anything to predict.
    """
    counts: dict[str, float] = {}
    tokens = 0
    for batch in micro_batches:
        tokens += int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())
        for name, count in objective.counts(batch).items():
            counts[name] = counts.get(name, 0.0) + count
    if accelerator.num_processes > 1:
        # A process without data does not know the terms, so the row has room for a few of them.
        row = torch.zeros(4 + MOST_TERMS, dtype=torch.float64)
        row[:4] = torch.tensor(
            [tokens, signal_number, not micro_batches, seconds], dtype=torch.float64
        )
        row[4 : 4 + len(counts)] = torch.tensor(list(counts.values()), dtype=torch.float64)
        rows = accelerator.gather(row[None].to(accelerator.device)).cpu()
        tokens, signal_number = int(rows[:, 0].sum()), int(rows[:, 1].max())
        seconds = rows[0, 3].item()
        counts = dict(zip(counts, rows[:, 4:].sum(dim=0).tolist(), strict=False))
        is_complete = not rows[:, 2].any().item()
    else:
        is_complete = bool(micro_batches)
    if is_complete and not any(counts.values()):
        raise DataError(
            "a training step has nothing to predict; check the labels or masks of the data"
        )
    return StepTotals(
        counts=counts,
        tokens=tokens,
        signal_number=signal_number,
        seconds=seconds,
        is_complete=is_complete,
    )


def largest(accelerator: Accelerator, number: int) -> int:
    """Return the largest ``number`` of all processes."""
    if accelerator.num_processes == 1:
        return number
    numbers = accelerator.gather(torch.tensor([number], device=accelerator.device))
    return int(numbers.max())
