"""Several tasks as one sequence of optimizer steps, each on one task.

In an epoch a task has a share of the steps that follows its size, all of them in a random order:
algorithm 1 of MT-DNN (Liu et al. 2019, arXiv 1901.11504). Shares that follow a power of the size,
such as its square root, give small tasks more of them: 3/4 in BAM (Clark et al. 2019, arXiv
1907.04829, section 3.3). The shares are kept exactly, not drawn, so no task is left to luck.

Symbols: n_k steps that task k needs for all of its examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nlpapp import seeding
from nlpapp.data.sampling import Batch, StepData
from nlpapp.errors import ConfigError

TASK = "task"
"""Key of a batch: the number of its task, from 0."""


def task_shares(sizes: Sequence[int], exponent: float) -> list[int]:
    """Return the steps of each task in an epoch of sum(n_k) steps, in proportion to n_k^exponent.

    What rounding down leaves goes to the largest remainders. Each task has one step at least, for
    which the epoch may be a few steps longer.

    Args:
        sizes: n_k.
        exponent: 1 follows the size, 0.5 its square root, 0 is the same for all.

    Raises:
        ConfigError: the exponent is not from 0 to 1.
    """
    if not 0 <= exponent <= 1:
        raise ConfigError(
            f"size_exponent is {exponent}; it must be from 0 (all tasks alike) to 1 (by size)."
        )
    weights = np.asarray(sizes, dtype=np.float64) ** exponent
    wanted = sum(sizes) * weights / weights.sum()
    shares = np.floor(wanted).astype(int)
    remainders = np.argsort(shares - wanted, kind="stable")
    shares[remainders[: sum(sizes) - shares.sum()]] += 1
    return [max(1, int(share)) for share in shares]


class TaskMixture:
    """The steps of several tasks, mixed; every batch also holds `TASK`.

    Each task goes through its own epochs at its own pace, and on where it was when an epoch of the
    mixture ends. All of it is a function of (seed, epoch, step).
    """

    def __init__(self, tasks: Sequence[StepData], *, exponent: float, seed: int) -> None:
        """Mix ``tasks``, each with as many steps in every one of its own epochs.

        Args:
            tasks: the steps of each task.
            exponent: of their sizes, see `task_shares`.
            seed: of the order of tasks.

        Raises:
            ConfigError: as `task_shares`.
        """
        self.tasks = list(tasks)
        self.seed = seed
        self.sizes = [task.num_steps(0) for task in tasks]
        self.shares = task_shares(self.sizes, exponent)
        self._planned: tuple[int, np.ndarray, np.ndarray] | None = None

    def num_steps(self, epoch: int) -> int:
        """Return the number of optimizer steps of ``epoch``, which is the same for all."""
        return sum(self.shares)

    def position(self, epoch: int, step: int) -> tuple[int, int, int]:
        """Return the task of a step, and the epoch and step of that task."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, *self._plan(epoch))
        _, order, counts = self._planned
        task = int(order[step])
        return task, *divmod(int(counts[step]), self.sizes[task])

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the task of each step, and how many steps that task had before, in all epochs."""
        rng = seeding.generator(self.seed, "task order", epoch)
        order = rng.permutation(np.repeat(np.arange(len(self.tasks)), self.shares))
        counts = np.empty(len(order), dtype=np.int64)
        for task, share in enumerate(self.shares):
            counts[order == task] = epoch * share + np.arange(share)
        return order, counts

    def micro_batches(self, epoch: int, step: int, **shares: Any) -> list[Batch]:
        """Return one process's micro-batches of one step; see `StepData`."""
        task, own_epoch, own_step = self.position(epoch, step)
        batches = self.tasks[task].micro_batches(own_epoch, own_step, **shares)
        return [batch | {TASK: torch.tensor(task)} for batch in batches]
