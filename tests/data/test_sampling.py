"""The order of examples is f(seed, epoch); each comes once an epoch, on any processes."""

import numpy as np
import pytest
import torch

from nlpapp.data.sampling import (
    GROUPING_POOL,
    ExampleSteps,
    cut_by_tokens,
    epoch_order,
    group_by_length,
    group_by_tokens,
    padding_share,
    split_step,
)
from nlpapp.errors import ConfigError


def collate(indices, epoch):
    return {"input_ids": torch.from_numpy(np.asarray(indices)), "epoch": torch.tensor(epoch)}


def seen(steps: ExampleSteps, epoch: int, world_size: int, accumulation: int) -> list[list[int]]:
    """For each step, the examples of all processes and micro-batches, in order."""
    return [
        [
            int(index)
            for rank in range(world_size)
            for batch in steps.micro_batches(
                epoch, step, rank=rank, world_size=world_size, accumulation=accumulation
            )
            for index in batch["input_ids"]
        ]
        for step in range(steps.num_steps(epoch))
    ]


@pytest.mark.parametrize("lengths", [None, np.arange(103) % 17])
def test_every_example_once_an_epoch_and_the_same_steps_for_any_processes(lengths):
    steps = ExampleSteps(103, collate, batch_size=10, seed=5, lengths=lengths)
    alone = seen(steps, 0, 1, 1)
    assert sorted(sum(alone, [])) == list(range(103))
    assert [len(step) for step in alone] == [10] * 10 + [3]
    for world_size, accumulation in ((2, 1), (1, 2), (3, 2)):
        assert seen(steps, 0, world_size, accumulation) == alone
    assert seen(steps, 1, 1, 1) != alone
    again = ExampleSteps(103, collate, batch_size=10, seed=5, lengths=lengths)
    assert seen(again, 0, 1, 1) == alone


def test_evaluation_keeps_the_order():
    steps = ExampleSteps(7, collate, batch_size=3, shuffle=False, lengths=np.arange(7)[::-1])
    assert seen(steps, 0, 1, 1) == [[0, 1, 2], [3, 4, 5], [6]]


def test_epoch_order_is_a_permutation():
    first, second = epoch_order(50, 3, 0), epoch_order(50, 3, 1)
    assert sorted(first) == list(range(50)) and not np.array_equal(first, second)


def test_groups_have_similar_lengths_and_only_the_last_is_short():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 128, 1005)
    batches = group_by_length(rng.permutation(1005), lengths, 10, rng)
    assert sorted(np.concatenate(batches)) == list(range(1005))
    assert [len(batch) for batch in batches] == [10] * 100 + [5]
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    shuffled = sum(10 * lengths[start : start + 10].max() for start in range(0, 1005, 10))
    assert padded < 1.05 * lengths.sum() < shuffled


@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_split_step_loses_nothing(count):
    indices = np.arange(count)
    parts = [part for rank in range(3) for part in split_step(indices, rank, 3, 2)]
    assert np.array_equal(np.concatenate([*parts, np.empty(0, int)]), indices)
    assert all(len(part) for part in parts)


@pytest.mark.parametrize("count", [3, 4, 8, 23, 24, 31])
@pytest.mark.parametrize("accumulation", [1, 4, 8])
def test_processes_have_equally_many_parts_and_none_is_without(count, accumulation):
    """A process without an example would make all of them pass over the step."""
    parts = [split_step(np.arange(count), rank, 3, accumulation) for rank in range(3)]
    (number,) = {len(own) for own in parts}
    assert number == min(accumulation, count // 3)
    sizes = [len(part) for own in parts for part in own]
    assert max(sizes) - min(sizes) <= 1


def padded(lengths, batch):
    return len(batch) * int(max(lengths[batch].max(), 1))


def cut_one_by_one(order, lengths, budget):
    """The definition: a batch takes the next example as long as it fits."""
    batches = [[]]
    for index in order:
        batch = [*batches[-1], int(index)]
        if len(batch) * max(max(int(lengths[i]) for i in batch), 1) > budget:
            batches.append([int(index)])
        else:
            batches[-1] = batch
    return [batch for batch in batches if batch]


@pytest.mark.parametrize("seed", range(20))
def test_cut_by_tokens_takes_as_many_as_fit(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 30, rng.integers(0, 400))
    order = rng.permutation(len(lengths))
    if seed % 2:
        order = order[np.argsort(lengths[order])]
    budget = int(rng.integers(30, 300))
    found = cut_by_tokens(order, lengths, budget)
    assert [batch.tolist() for batch in found] == cut_one_by_one(order, lengths, budget)


def test_cut_by_tokens_by_hand():
    lengths = np.array([4, 4, 4, 9, 1, 1, 12, 2])
    found = [batch.tolist() for batch in cut_by_tokens(np.arange(8), lengths, 12)]
    assert found == [[0, 1, 2], [3], [4, 5], [6], [7]]


@pytest.mark.parametrize("count", [0, 1, 40, 3000])
def test_token_batches_stay_within_the_budget_and_are_well_filled(count):
    rng = np.random.default_rng(1)
    # Most are short, as documents are.
    lengths = np.minimum(rng.geometric(0.02, count) + 5, 512)
    budget = 2048
    batches = group_by_tokens(rng.permutation(count), lengths, budget, rng)
    assert sorted(np.concatenate([*batches, np.empty(0, int)]).tolist()) == list(range(count))
    assert all(padded(lengths, batch) <= budget for batch in batches)
    # Every batch but the last holds at least as many rows as the longest examples allow.
    assert all(len(batch) >= budget // 512 for batch in batches[:-1])
    if count == 3000:
        assert padding_share(lengths, batches) < 0.05
        assert np.mean([padded(lengths, batch) for batch in batches[:-1]]) > 0.9 * budget


def test_token_batches_are_shuffled_and_the_one_with_room_stays_last():
    lengths = np.repeat([5, 10, 15, 20], [40, 40, 40, 41])
    rng = np.random.default_rng(3)
    batches = group_by_tokens(rng.permutation(161), lengths, 60, rng)
    widths = [int(lengths[batch].max()) for batch in batches]
    assert sorted(widths) != widths != sorted(widths, reverse=True)
    # One pool, so the longest are cut last: two rows of 15 and one of 20, and then 40 = 13 * 3 + 1.
    assert [len(batch) for batch in batches if lengths[batch].max() == 20] == [3] * 14 + [1]
    assert len(batches[-1]) == 1


def test_token_steps_are_a_function_of_seed_and_epoch_on_any_processes():
    lengths = np.random.default_rng(2).integers(5, 65, 700)
    options = {"batch_size": 3, "lengths": lengths, "tokens_per_batch": 512}
    steps = ExampleSteps(700, collate, seed=5, **options)
    epochs = [seen(steps, epoch, 1, 1) for epoch in range(4)]
    for epoch, alone in enumerate(epochs):
        assert sorted(sum(alone, [])) == list(range(700))
        assert len(alone) == steps.num_steps(epoch)
        assert all(padded(lengths, np.array(step)) <= 512 for step in alone)
    assert len({str(alone) for alone in epochs}) == 4
    # Epochs may differ in their number of steps; each knows its own, in any order of asking.
    again = ExampleSteps(700, collate, seed=5, **options)
    numbers = [again.num_steps(epoch) for epoch in (3, 1, 0, 2)]
    assert numbers == [len(epochs[epoch]) for epoch in (3, 1, 0, 2)]
    assert seen(again, 2, 1, 1) == epochs[2]
    for world_size, accumulation in ((2, 1), (1, 2), (3, 2), (8, 1)):
        assert seen(steps, 0, world_size, accumulation) == epochs[0]
    other = ExampleSteps(700, collate, seed=6, **options)
    assert seen(other, 0, 1, 1) != epochs[0]


def test_token_steps_of_an_evaluation_keep_the_order():
    lengths = np.array([4, 4, 4, 9, 1, 1, 12, 2])
    steps = ExampleSteps(
        8, collate, batch_size=99, shuffle=False, lengths=lengths, tokens_per_batch=12
    )
    assert seen(steps, 0, 1, 1) == [[0, 1, 2], [3], [4, 5], [6], [7]]
    assert steps.num_steps(0) == 5


def test_token_steps_that_cannot_be_made():
    lengths = np.array([5, 30, 40, 8])
    make = {"batch_size": 4, "lengths": lengths}
    with pytest.raises(ConfigError, match="example 2 has 40 tokens, over tokens_per_batch 39"):
        ExampleSteps(4, collate, tokens_per_batch=39, **make)
    with pytest.raises(ConfigError, match="tokens_per_batch is 0; it must be at least 1"):
        ExampleSteps(4, collate, tokens_per_batch=0, **make)
    with pytest.raises(ConfigError, match="turn group_by_length on"):
        ExampleSteps(4, collate, batch_size=4, tokens_per_batch=64)
    steps = ExampleSteps(4, collate, tokens_per_batch=80, **make)
    assert len(steps.micro_batches(0, 0, rank=1, world_size=2, accumulation=1)) == 1
    with pytest.raises(ConfigError, match="fewer than the 3 processes; it must be at least 120"):
        steps.micro_batches(0, 0, rank=0, world_size=3, accumulation=1)


def test_steps_that_leave_a_process_without_an_example_are_refused():
    share = {"rank": 0, "world_size": 3, "accumulation": 1}
    with pytest.raises(ConfigError, match="batch_size is 2, fewer examples than the 3 processes"):
        ExampleSteps(9, collate, batch_size=2).micro_batches(0, 0, **share)
    read = ExampleSteps(9, collate, batch_size=2, shuffle=False).micro_batches(0, 0, **share)
    assert len(read) == 1, "an evaluation copes with that"
    with pytest.raises(ConfigError, match="a batch of 0 examples"):
        ExampleSteps(9, collate, batch_size=0)


def test_padding_share():
    lengths = np.array([2, 4, 1, 3], dtype=np.uint16)
    assert padding_share(lengths, [np.array([0, 1]), np.array([2]), np.array([3])]) == 1 - 10 / 12
    assert padding_share(lengths, [np.array([0, 1, 2, 3]), np.array([], int)]) == 1 - 10 / 16
    assert padding_share(lengths, []) == 0.0
    assert padding_share(np.zeros(2, int), [np.array([0, 1])]) == 0.0


def test_grouping_mixes_within_pools_only():
    """The pools are those of the order: an epoch's first examples stay among its first batches."""
    lengths = np.full(8 * GROUPING_POOL * 2, 16)
    order = np.arange(len(lengths))
    batches = group_by_tokens(order, lengths, 128, np.random.default_rng(0))
    pools = [set((batch // (8 * GROUPING_POOL)).tolist()) for batch in batches]
    assert all(len(pool) == 1 for pool in pools)
    assert [len(batch) for batch in batches] == [8] * (2 * GROUPING_POOL)
