"""The order of examples: a function of (seed, epoch) and of nothing else.

The trainer reads data as optimizer steps. A step is a list of example indices, the same whatever
the number of processes; `split_step` deals it out to processes and micro-batches. A position in
the data is therefore (epoch, step), and resuming needs no replay.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from nlpapp import seeding

Batch = dict[str, torch.Tensor]
Collate = Callable[[np.ndarray, int], Batch]
"""(example indices, epoch) -> a padded batch. The epoch lets a collator draw fresh masks."""

GROUPING_POOL = 50
"""Batches whose examples are sorted together: more saves padding, fewer mixes better."""


class StepData(Protocol):
    """A data set cut into optimizer steps: what the trainer and the evaluation loop read."""

    def num_steps(self, epoch: int) -> int:
        """Return the number of optimizer steps of ``epoch``."""
        ...

    def micro_batches(
        self, epoch: int, step: int, *, rank: int, world_size: int, accumulation: int
    ) -> list[Batch]:
        """Return one process's micro-batches of one step, at most ``accumulation`` of them."""
        ...


def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of ``range(num_examples)`` that depends on (seed, epoch) only."""
    return seeding.generator(seed, "epoch order", epoch).permutation(num_examples)


def group_by_length(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Cut ``order`` into batches of similar length, and shuffle the batches.

    Examples are sorted within pools of `GROUPING_POOL` batches, so that each epoch groups them
    anew. The one batch that may be short comes last.
    """
    pool = batch_size * GROUPING_POOL
    grouped = [
        part[np.argsort(lengths[part], kind="stable")]
        for part in (order[start : start + pool] for start in range(0, len(order), pool))
    ]
    flat = np.concatenate(grouped) if grouped else order
    batches = [flat[start : start + batch_size] for start in range(0, len(flat), batch_size)]
    full = [batch for batch in batches if len(batch) == batch_size]
    short = [batch for batch in batches if len(batch) < batch_size]
    return [full[index] for index in rng.permutation(len(full))] + short


def split_step(
    indices: np.ndarray, rank: int, world_size: int, accumulation: int
) -> list[np.ndarray]:
    """Return one process's examples of a step: one contiguous part for each micro-batch."""
    parts = np.array_split(indices, world_size * accumulation)
    return [part for part in parts[rank * accumulation : (rank + 1) * accumulation] if len(part)]


class ExampleSteps:
    """Independent examples (pairs of segments, sentences) as optimizer steps.

    With ``shuffle`` off, the examples come in their own order: that is for evaluation.
    """

    def __init__(
        self,
        num_examples: int,
        collate: Collate,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        lengths: np.ndarray | None = None,
    ) -> None:
        """Cut ``num_examples`` examples into steps of ``batch_size``, over all processes together.

        ``lengths`` (tokens of each example) turns on grouping by length.
        """
        self.num_examples = num_examples
        self.collate = collate
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.lengths = lengths
        self._planned: tuple[int, list[np.ndarray]] | None = None

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the steps of ``epoch``, each an array of example indices."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self._make_plan(epoch))
        return self._planned[1]

    def _make_plan(self, epoch: int) -> list[np.ndarray]:
        order = np.arange(self.num_examples)
        if self.shuffle:
            order = epoch_order(self.num_examples, self.seed, epoch)
        if self.shuffle and self.lengths is not None:
            rng = seeding.generator(self.seed, "batch order", epoch)
            return group_by_length(order, self.lengths, self.batch_size, rng)
        return [
            order[start : start + self.batch_size]
            for start in range(0, len(order), self.batch_size)
        ]

    def num_steps(self, epoch: int) -> int:
        """Return the number of optimizer steps of ``epoch``; the last may be short."""
        return -(-self.num_examples // self.batch_size)

    def micro_batches(
        self, epoch: int, step: int, *, rank: int, world_size: int, accumulation: int
    ) -> list[Batch]:
        """Return the micro-batches of one step for one process."""
        parts = split_step(self.plan(epoch)[step], rank, world_size, accumulation)
        return [self.collate(part, epoch) for part in parts]
