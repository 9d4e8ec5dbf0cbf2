import numpy as np
import torch

from nlpapp.data.annealing import AnnealedSteps
from nlpapp.data.sampling import ExampleSteps

ALONE = {"rank": 0, "world_size": 1, "accumulation": 1}


def build(total):
    plain = ExampleSteps(
        10, lambda rows, epoch: {"input_ids": torch.tensor(rows)}, batch_size=4, seed=1
    )
    return plain, AnnealedSteps(plain, total)


def test_batches_know_how_much_of_the_training_lies_behind_them():
    plain, annealed = build(6)
    assert annealed.num_steps(0) == 3
    found = []
    for epoch in range(2):
        for step in range(3):
            (batch,) = annealed.micro_batches(epoch, step, **ALONE)
            (expected,) = plain.micro_batches(epoch, step, **ALONE)
            assert torch.equal(batch["input_ids"], expected["input_ids"])
            found.append(batch["progress"].item())
    np.testing.assert_allclose(found, np.arange(6) / 6)


def test_all_micro_batches_of_a_step_share_the_progress_and_it_ends_at_1():
    _, annealed = build(2)
    shares = ALONE | {"accumulation": 2}
    batches = annealed.micro_batches(3, 0, **shares)
    assert [batch["progress"].item() for batch in batches] == [1.0, 1.0]
