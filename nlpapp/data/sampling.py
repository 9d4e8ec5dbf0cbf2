"""The order of examples: a function of (seed, epoch) and of nothing else.

The trainer reads data as optimizer steps. A step is a list of example indices, the same whatever
the number of processes; `split_step` deals it out to processes and micro-batches. A position in
the data is therefore (epoch, step), and resuming needs no replay.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nlpapp import seeding
from nlpapp.errors import ConfigError

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]
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


def group_by_tokens(
    order: np.ndarray, lengths: np.ndarray, tokens_per_batch: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Cut ``order`` into batches of similar length and of a bounded size, and shuffle them.

    As `group_by_length`, but a batch has as many rows as fit into ``tokens_per_batch`` padded
    tokens. The last batch, which may have room left, stays last.
    """
    mean = max(1.0, float(lengths.mean())) if len(lengths) else 1.0
    pool = max(1, round(tokens_per_batch / mean)) * GROUPING_POOL
    grouped = []
    for number, start in enumerate(range(0, len(order), pool)):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        # Up, then down: a batch across two pools has rows of similar length as well.
        grouped.append(part if number % 2 == 0 else part[::-1])
    batches = cut_by_tokens(
        np.concatenate(grouped) if grouped else order, lengths, tokens_per_batch
    )
    shuffled = [batches[index] for index in rng.permutation(len(batches) - 1)] if batches else []
    return shuffled + batches[-1:]


def cut_by_tokens(
    order: np.ndarray, lengths: np.ndarray, tokens_per_batch: int
) -> list[np.ndarray]:
    """Cut ``order`` into batches, each of as many rows as fit into ``tokens_per_batch``.

    The size of a batch is its rows times its longest row: what it takes when it is padded.

    Args:
        order: (N,) indices of examples.
        lengths: tokens of each example; none is over ``tokens_per_batch``.
        tokens_per_batch: most padded tokens of a batch.
    """
    ordered = np.maximum(np.asarray(lengths)[order], 1)
    batches, start = [], 0
    while start < len(order):
        # The first row alone limits how many there can be.
        window = ordered[start : start + tokens_per_batch // int(ordered[start])]
        sizes = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
        rows = int(np.searchsorted(sizes, tokens_per_batch, side="right"))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def padding_share(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """Return the share of padding among the positions of ``batches``, from 0 to 1.

    Args:
        lengths: tokens of each example.
        batches: indices of examples; each batch is as wide as its longest row.
    """
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        return 0.0
    rows = np.array([len(batch) for batch in batches], dtype=np.int64)
    ordered = np.asarray(lengths)[np.concatenate(batches)].astype(np.int64)
    longest = np.maximum.reduceat(ordered, np.cumsum(rows) - rows)
    positions = int((rows * longest).sum())
    return 1.0 - int(ordered.sum()) / positions if positions else 0.0


def split_step(
    indices: np.ndarray, rank: int, world_size: int, accumulation: int
) -> list[np.ndarray]:
    """Return one process's examples of a step: one contiguous part for each micro-batch.

    Processes first, so that none of them is without an example as long as there are enough. All
    have as many parts, since processes that hold pieces of a model compute each part together.
    """
    own = np.array_split(indices, world_size)[rank]
    parts = max(1, min(accumulation, len(indices) // world_size))
    return [part for part in np.array_split(own, parts) if len(part)]


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
        tokens_per_batch: int | None = None,
    ) -> None:
        """Cut ``num_examples`` examples into steps, over all processes together.

        Args:
            num_examples: examples of an epoch.
            collate: makes a padded batch of example indices.
            batch_size: examples of a step.
            seed: of the order.
            shuffle: whether each epoch has an order of its own.
            lengths: tokens of each example; turns on grouping by length when shuffled.
            tokens_per_batch: most padded tokens of a step (rows times longest row). Steps then
                have as many examples as fit, and ``batch_size`` is not used.

        Raises:
            ConfigError: an example is longer than ``tokens_per_batch``, or there are no lengths, or
                ``batch_size`` is below 1.
        """
        if tokens_per_batch is None and batch_size < 1:
            raise ConfigError(f"a batch of {batch_size} examples; batch_size must be at least 1")
        self.num_examples = num_examples
        self.collate = collate
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.lengths = lengths
        self.tokens_per_batch = tokens_per_batch
        self._longest = 0
        self._planned: tuple[int, list[np.ndarray]] | None = None
        if tokens_per_batch is not None:
            if lengths is None:
                raise ConfigError(
                    f"tokens_per_batch is {tokens_per_batch}, which needs the lengths of the "
                    "examples: turn group_by_length on, or leave tokens_per_batch out"
                )
            self._longest = _check_fit(lengths, tokens_per_batch)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the steps of ``epoch``, each an array of example indices."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self._make_plan(epoch))
        return self._planned[1]

    def _make_plan(self, epoch: int) -> list[np.ndarray]:
        order = np.arange(self.num_examples)
        if self.shuffle:
            order = epoch_order(self.num_examples, self.seed, epoch)
        if self.lengths is not None and self.shuffle:
            rng = seeding.generator(self.seed, "batch order", epoch)
            if self.tokens_per_batch is not None:
                return group_by_tokens(order, self.lengths, self.tokens_per_batch, rng)
            return group_by_length(order, self.lengths, self.batch_size, rng)
        if self.lengths is not None and self.tokens_per_batch is not None:
            return cut_by_tokens(order, self.lengths, self.tokens_per_batch)
        return [
            order[start : start + self.batch_size]
            for start in range(0, len(order), self.batch_size)
        ]

    def num_steps(self, epoch: int) -> int:
        """Return the number of optimizer steps of ``epoch``; the last may be short.

        With ``tokens_per_batch`` it is not the same in each epoch.
        """
        if self.tokens_per_batch is not None:
            return len(self.plan(epoch))
        return -(-self.num_examples // self.batch_size)

    def micro_batches(
        self, epoch: int, step: int, *, rank: int, world_size: int, accumulation: int
    ) -> list[Batch]:
        """Return the micro-batches of one step for one process.

        Raises:
            ConfigError: see `check_processes`.
        """
        shares = {"rank": rank, "world_size": world_size, "accumulation": accumulation}
        return [self.collate(part, epoch) for part in self.examples(epoch, step, **shares)]

    def examples(
        self, epoch: int, step: int, *, rank: int, world_size: int, accumulation: int
    ) -> list[np.ndarray]:
        """Return the indices of the examples of `micro_batches`, an array for each."""
        self.check_processes(world_size)
        return split_step(self.plan(epoch)[step], rank, world_size, accumulation)

    def check_processes(self, world_size: int) -> None:
        """Check that the steps are large enough for so many processes.

        Raises:
            ConfigError: ``tokens_per_batch`` or ``batch_size`` is too small to give each process an
                example to train on.
        """
        budget = self.tokens_per_batch
        if budget is not None and self._longest and budget // self._longest < world_size:
            raise ConfigError(
                f"tokens_per_batch is {budget}, which holds {budget // self._longest} of the "
                f"longest examples ({self._longest} tokens), fewer than the {world_size} "
                f"processes; it must be at least {world_size * self._longest}"
            )
        if budget is None and self.shuffle and self.batch_size < world_size:
            raise ConfigError(
                f"batch_size is {self.batch_size}, fewer examples than the {world_size} processes; "
                f"it must be at least {world_size}"
            )


def _check_fit(lengths: np.ndarray, tokens_per_batch: int) -> int:
    """Return the most tokens of an example; raise `ConfigError` if they are over the budget."""
    if tokens_per_batch < 1:
        raise ConfigError(f"tokens_per_batch is {tokens_per_batch}; it must be at least 1")
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > tokens_per_batch:
        raise ConfigError(
            f"example {int(np.argmax(lengths))} has {longest} tokens, over tokens_per_batch "
            f"{tokens_per_batch}; give at least {longest}"
        )
    return longest
