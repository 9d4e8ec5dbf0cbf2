"""The order of examples is f(seed, epoch); each comes once an epoch, on any processes."""

import numpy as np
import pytest
import torch

from nlpapp.data.sampling import ExampleSteps, epoch_order, group_by_length, split_step


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
