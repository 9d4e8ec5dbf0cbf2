from collections import Counter

import numpy as np
import pytest

from nlpapp.data import corpus_plan
from nlpapp.data.corpus_plan import CorpusPlan


class Ranges:
    """Stands for a CorpusText: one task, ranges of the given sizes."""

    def __init__(self, sizes, *, group=None, documents=None, duplicates=()):
        count = len(sizes)
        self.bytes = np.array(sizes, dtype=np.int64)
        self.task = np.zeros(count, dtype=np.int64)
        self.order = np.arange(count)
        self.group = np.full(count, -1) if group is None else np.array(group)
        self.documents = (
            np.ones(count, dtype=np.int64) if documents is None else np.array(documents)
        )
        self.first = np.cumsum(self.documents) - np.maximum(self.documents, 1)
        self.duplicates = {0: np.array(duplicates, dtype=np.int64)} if duplicates else {}

    def __len__(self):
        return len(self.bytes)


def ranges_of(plan):
    return [part.order for shard in plan for block in shard.blocks for part in block.ranges]


@pytest.mark.parametrize("count", [1, 2, 7, 300])
@pytest.mark.parametrize("size", [10, 100, 5000])
def test_every_range_is_in_one_block(count, size):
    rng = np.random.default_rng(count)
    plan = CorpusPlan(Ranges(rng.integers(1, 2 * size, count)), seed=0, block_bytes=1000)
    assert sorted(ranges_of(plan)) == list(range(count))
    assert [shard.index for shard in plan] == list(range(len(plan)))
    assert {shard.count for shard in plan} == {len(plan)}


def test_blocks_are_of_even_size_and_in_random_order():
    plan = CorpusPlan(Ranges([100] * 95), seed=0, block_bytes=1000)
    blocks = [block for shard in plan for block in shard.blocks]
    assert Counter(len(block.ranges) for block in blocks) in (
        Counter({10: 5, 9: 5}),
        Counter({11: 5, 10: 4}),
    )
    assert ranges_of(plan) != sorted(ranges_of(plan))
    assert ranges_of(plan) != ranges_of(CorpusPlan(Ranges([100] * 95), seed=1, block_bytes=1000))
    assert [block.number for block in blocks] == list(range(len(blocks)))


def test_many_blocks_share_a_shard(monkeypatch):
    monkeypatch.setattr(corpus_plan, "MOST_SHARDS", 3)
    plan = CorpusPlan(Ranges([100] * 80), seed=0, block_bytes=1000)
    assert [len(shard.blocks) for shard in plan] == [2, 3, 3]
    assert sorted(ranges_of(plan)) == list(range(80))


def test_a_block_of_one_document_gets_guests():
    # Ranges 0 to 39 are slices of one long document; the others are small.
    plan = CorpusPlan(
        Ranges([100] * 40 + [60] * 6, group=[0] * 40 + [-1] * 6), seed=3, block_bytes=500
    )
    for shard in plan:
        for block in shard.blocks:
            others = sum(part.bytes for part in block.ranges if part.order >= 40)
            lent = sum(part.bytes for part in block.guests)
            assert all(guest.order >= 40 for guest in block.guests)
            assert others + lent >= 0.1 * sum(part.bytes for part in block.ranges)
            assert bool(lent) == (others < 0.1 * sum(part.bytes for part in block.ranges))


def test_the_one_document_of_a_corpus_has_no_guests():
    plan = CorpusPlan(Ranges([100] * 4, group=[0] * 4), seed=0, block_bytes=100)
    assert all(block.guests == () for shard in plan for block in shard.blocks)


def test_duplicates_are_left_out():
    # Three ranges of two documents; a long document in two slices; a range of one.
    corpus = Ranges(
        [10] * 6,
        documents=[2, 2, 2, 1, 0, 1],
        group=[-1, -1, -1, 0, 0, -1],
        duplicates=(2, 3, 5, 6),
    )
    plan = CorpusPlan(corpus, seed=0, drop_duplicates=True, block_bytes=1000)
    parts = {
        part.order: part.dropped
        for shard in plan
        for block in shard.blocks
        for part in block.ranges
    }
    # Documents 2, 3: all of range 1; 5: the second of range 2; 6: both slices.
    assert parts == {0: (), 2: (1,), 5: ()}
    whole = CorpusPlan(corpus, seed=0, block_bytes=1000)
    assert len(ranges_of(whole)) == 6


def test_a_shard_that_is_not_there():
    with pytest.raises(IndexError):
        CorpusPlan(Ranges([1]), seed=0)[1]
