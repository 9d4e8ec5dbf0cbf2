"""Training steps that know how far the training has come."""

from typing import Any

import torch

from nlpapp.data.sampling import Batch, ExampleSteps

PROGRESS = "progress"
"""Key of a batch: the share of the training that lies behind it, a number from 0 up to 1."""


class AnnealedSteps:
    """`ExampleSteps` whose batches also hold `PROGRESS`.

    It depends on the epoch and the step alone, so a resumed training goes on where it was.
    """

    def __init__(self, steps: ExampleSteps, total_steps: int) -> None:
        """Count ``total_steps`` optimizer steps as the whole training.

        Args:
            steps: with as many steps in each epoch.
            total_steps: of the training.
        """
        self.steps = steps
        self.total_steps = total_steps

    def num_steps(self, epoch: int) -> int:
        """Return the number of optimizer steps of ``epoch``."""
        return self.steps.num_steps(epoch)

    def micro_batches(self, epoch: int, step: int, **shares: Any) -> list[Batch]:
        """Return one process's micro-batches of one step; see `StepData`."""
        done = (epoch * self.steps.num_steps(epoch) + step) / self.total_steps
        progress = torch.tensor(min(done, 1.0))
        batches = self.steps.micro_batches(epoch, step, **shares)
        return [batch | {PROGRESS: progress} for batch in batches]
