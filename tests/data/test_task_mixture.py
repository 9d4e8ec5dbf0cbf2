import itertools

import numpy as np
import pytest
import torch

from nlpapp.data.sampling import ExampleSteps
from nlpapp.data.task_mixture import TASK, TaskMixture, task_shares
from nlpapp.errors import ConfigError

ALONE = {"rank": 0, "world_size": 1, "accumulation": 1}


def steps_of(examples, first, batch_size=2):
    """A task whose examples are numbers from ``first`` on."""
    return ExampleSteps(
        examples,
        lambda rows, epoch: {"input_ids": torch.tensor(rows + first)},
        batch_size=batch_size,
        seed=first,
    )


@pytest.mark.parametrize(
    "sizes, exponent, expected",
    [
        ([7, 3, 1], 1.0, [7, 3, 1]),
        ([16, 4, 1], 0.5, [12, 6, 3]),  # 21 steps in the proportion 4 : 2 : 1
        ([5, 3, 2], 0.5, [4, 3, 3]),  # 4.15, 3.22 and 2.63 of 10: the third has the largest rest
        ([9, 2, 1], 0.0, [4, 4, 4]),
        ([81, 16], 0.75, [75, 22]),  # 97 * 27 / 35 = 74.8
        ([10**6, 1], 0.999, [10**6, 1]),
    ],
)
def test_shares_follow_a_power_of_the_size(sizes, exponent, expected):
    assert task_shares(sizes, exponent) == expected


def test_every_task_has_a_step_in_every_epoch():
    assert task_shares([1000, 1, 1], 1.0) == [1000, 1, 1]
    shares = task_shares([10**6, 2], 1.0)
    assert shares == [10**6, 2]
    assert min(task_shares([2000, 3, 3, 1], 1.0)) == 1


@pytest.mark.parametrize("exponent", [-0.1, 1.5])
def test_an_exponent_outside_0_to_1_is_refused(exponent):
    with pytest.raises(ConfigError, match=f"size_exponent is {exponent}"):
        task_shares([2, 1], exponent)


def test_an_epoch_by_size_reads_every_example_of_every_task_once():
    mixture = TaskMixture([steps_of(9, 0), steps_of(4, 100)], exponent=1.0, seed=3)
    assert mixture.num_steps(0) == mixture.num_steps(5) == 5 + 2
    orders = []
    for epoch in range(3):
        read, order = [], []
        for step in range(7):
            (batch,) = mixture.micro_batches(epoch, step, **ALONE)
            order.append(batch[TASK].item())
            assert all((row >= 100) == order[-1] for row in batch["input_ids"].tolist())
            read += batch["input_ids"].tolist()
        assert sorted(read) == [*range(9), *range(100, 104)]
        orders.append(order)
    assert sorted(orders[0]) == [0] * 5 + [1] * 2
    assert orders[0] != orders[1] or orders[1] != orders[2]


def test_a_task_goes_on_where_it_was_when_an_epoch_ended():
    sizes = [8, 2]
    mixture = TaskMixture([steps_of(16, 0), steps_of(4, 100)], exponent=0.5, seed=1)
    assert mixture.shares == [7, 3]  # 10 steps in the proportion 2 : 1
    seen = [[], []]
    for epoch, step in itertools.product(range(6), range(10)):
        task, own_epoch, own_step = mixture.position(epoch, step)
        seen[task].append((own_epoch, own_step))
    for task, (size, share) in enumerate(zip(sizes, mixture.shares, strict=True)):
        assert seen[task] == [divmod(number, size) for number in range(6 * share)]


def test_a_step_depends_on_seed_epoch_and_step_alone():
    def build(seed):
        return TaskMixture([steps_of(40, 0), steps_of(30, 100)], exponent=0.75, seed=seed)

    places = list(itertools.product(range(3), range(35)))
    found = {place: build(7).position(*place) for place in places}
    again = build(7)
    for index in np.random.default_rng(0).permutation(len(places)):
        assert again.position(*places[index]) == found[places[index]]
    other = build(8)
    assert [other.position(*place) for place in places] != list(found.values())


def test_processes_and_micro_batches_share_the_step_of_one_task():
    mixture = TaskMixture([steps_of(24, 0, 8), steps_of(16, 100, 8)], exponent=1.0, seed=0)
    for step in range(mixture.num_steps(0)):
        (whole,) = mixture.micro_batches(0, step, **ALONE)
        parts = [
            batch
            for rank in range(2)
            for batch in mixture.micro_batches(0, step, rank=rank, world_size=2, accumulation=2)
        ]
        assert {batch[TASK].item() for batch in parts} == {whole[TASK].item()}
        joined = torch.cat([batch["input_ids"] for batch in parts])
        assert torch.equal(joined, whole["input_ids"])
