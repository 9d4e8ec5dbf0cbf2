"""One objective for each of several tasks; a batch says which task it is of."""

from collections.abc import Mapping
from typing import Any

from nlpapp.objectives.step import Batch, Counts, Objective, StepOutput

TASK = "task"
"""Key of a batch: the number of its task, in the order of the objectives."""


class MultiTaskObjective:
    """The loss of each batch is that of its task alone (Liu et al. 2019, arXiv 1901.11504).

    All micro-batches of a step are of one task, so that its mean over the step's predictions is
    exact.
    """

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        """Take the objective of each task by name, in the order of their numbers."""
        self.names = list(objectives)
        self.objectives = list(objectives.values())

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the predictions of each loss term of the batch's task."""
        return self.objectives[int(batch[TASK])].counts(batch)

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return the task's loss, "loss" over all tasks, and the task's metrics by its name."""
        number = int(batch[TASK])
        found = self.objectives[number](model, batch, counts, carry)
        named = {f"{self.names[number]}_{name}": value for name, value in found.metrics.items()}
        return StepOutput(loss=found.loss, metrics={"loss": found.metrics["loss"], **named})

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Return ``means`` as they are."""
        return means
