import numpy as np
import pytest
import torch

from nlpapp.data.sampling import split_step
from nlpapp.training.carry import deal_carries

ROWS = 7


def carries(world_size, accumulation):
    """The carries of a step of seven rows, in the nesting of a Transformer-XL's memory and more."""
    return [
        [
            {"memory": (torch.tensor(part)[:, None], torch.tensor(part) * 10), "none": ()}
            for part in split_step(np.arange(ROWS), rank, world_size, accumulation)
        ]
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("saved", [(1, 1), (2, 1), (1, 3), (2, 2), (3, 2)])
@pytest.mark.parametrize("now", [(1, 1), (2, 1), (1, 3), (2, 2), (3, 2)])
def test_each_row_keeps_its_carry_on_any_number_of_processes(saved, now):
    given = [carry for process in carries(*saved) for carry in process]
    for rank, expected in enumerate(carries(*now)):
        found = deal_carries(given, rank=rank, world_size=now[0], accumulation=now[1])
        assert len(found) == len(expected) == now[1]
        for own, wanted in zip(found, expected, strict=True):
            assert own["none"] == ()
            for tensor, other in zip(own["memory"], wanted["memory"], strict=True):
                assert torch.equal(tensor, other)
                assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_job_without_a_carry_has_none():
    assert deal_carries([None, None], rank=1, world_size=2, accumulation=3) == [None] * 3
