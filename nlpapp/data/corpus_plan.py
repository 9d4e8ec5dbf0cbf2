"""Which text goes into which shard: a function of the corpus, the seed and nothing else.

    ranges in random order -> blocks of some 2 MB -> shards of one or more blocks

A block is what instances are made of at once, and where random segments are drawn from: its ranges
come from all over the corpus, so that they are of many documents even where documents are novels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from nlpapp import seeding
from nlpapp.data.corpus_text import CorpusText

BLOCK_BYTES = 2_000_000
"""Text of a block; memory goes with it, some 100 times this for a worker."""
MOST_SHARDS = 2048
GUEST_SHARE = 0.1
"""A block in which less than this is of other documents than its largest gets guests."""


@dataclass(frozen=True, kw_only=True)
class RangePlan:
    """A range of the corpus text, by task and number in it."""

    task: int
    order: int
    bytes: int
    first: int
    """Number, in its task, of the first document."""
    documents: int
    """Documents that begin in it."""
    dropped: tuple[int, ...] = ()
    """Documents of the range, counted from its first, that are left out as duplicates."""


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """The ranges of a block, and those that it may draw random segments from besides."""

    number: int
    ranges: tuple[RangePlan, ...]
    guests: tuple[RangePlan, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """The blocks of a shard."""

    index: int
    count: int
    """Shards of the data set."""
    blocks: tuple[BlockPlan, ...]


class CorpusPlan(Sequence[ShardPlan]):
    """The shards of a data set; each is put together when it is asked for."""

    def __init__(
        self,
        corpus: CorpusText,
        *,
        seed: int,
        drop_duplicates: bool = False,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Deal out the ranges of ``corpus``."""
        self.corpus = corpus
        self.duplicates = corpus.duplicates if drop_duplicates else {}
        order = seeding.generator(seed, "order of the corpus").permutation(len(corpus))
        if self.duplicates:
            order = order[[not self._is_dropped(i) for i in order]]
        self.order = order
        ends = np.cumsum(corpus.bytes[order])
        total = int(ends[-1]) if len(ends) else 0
        num_blocks = max(1, round(total / block_bytes))
        # Blocks of even size: a range belongs to the block in which its middle lies.
        middles = ends - corpus.bytes[order] / 2
        block = np.minimum((middles * num_blocks / max(total, 1)).astype(np.int64), num_blocks - 1)
        self.bounds = np.flatnonzero(np.diff(block, prepend=-1, append=num_blocks))
        self.num_blocks = max(0, len(self.bounds) - 1)
        self.num_shards = min(self.num_blocks, MOST_SHARDS)

    def _is_dropped(self, number: int) -> bool:
        return len(self._dropped(number)) == max(1, int(self.corpus.documents[number]))

    def _dropped(self, number: int) -> tuple[int, ...]:
        """Return which documents of a range are duplicates, counted from its first."""
        found = self.duplicates.get(int(self.corpus.task[number]))
        if found is None:
            return ()
        first = int(self.corpus.first[number])
        last = first + max(1, int(self.corpus.documents[number]))
        return tuple(
            (found[np.searchsorted(found, first) : np.searchsorted(found, last)] - first).tolist()
        )

    def __len__(self) -> int:
        """Return the number of shards."""
        return self.num_shards

    @overload
    def __getitem__(self, index: int) -> ShardPlan: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardPlan]: ...
    def __getitem__(self, index: int | slice) -> ShardPlan | Sequence[ShardPlan]:
        """Return the plan of shard ``index``."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        blocks = range(
            index * self.num_blocks // self.num_shards,
            (index + 1) * self.num_blocks // self.num_shards,
        )
        return ShardPlan(
            index=index, count=len(self), blocks=tuple(self._block(number) for number in blocks)
        )

    def _block(self, number: int) -> BlockPlan:
        begin, end = self.bounds[number], self.bounds[number + 1]
        members = self.order[begin:end]
        return BlockPlan(
            number=number,
            ranges=tuple(self._range(i) for i in members),
            guests=tuple(self._range(i) for i in self._guests(members, int(end))),
        )

    def _guests(self, members: np.ndarray, end: int) -> list[int]:
        """Return ranges of other documents for a block that is mostly slices of one document."""
        groups = self.corpus.group[members]
        sizes = np.bincount(groups[groups >= 0], weights=self.corpus.bytes[members][groups >= 0])
        wanted = GUEST_SHARE * self.corpus.bytes[members].sum()
        if not len(sizes):
            return []
        largest = int(sizes.argmax())
        others = float(self.corpus.bytes[members][groups != largest].sum())
        guests: list[int] = []
        # From the end of the block on, round to its begin.
        for number in np.concatenate([self.order[end:], self.order[: end - len(members)]]):
            if others >= wanted:
                break
            if self.corpus.group[number] != largest:
                guests.append(int(number))
                others += float(self.corpus.bytes[number])
        return guests

    def _range(self, number: int) -> RangePlan:
        corpus = self.corpus
        return RangePlan(
            task=int(corpus.task[number]),
            order=int(corpus.order[number]),
            bytes=int(corpus.bytes[number]),
            first=int(corpus.first[number]),
            documents=int(corpus.documents[number]),
            dropped=self._dropped(number),
        )
