"""The loop: exact means over micro-batches, and a stop before a bad update."""

import pytest
import torch

from nlpapp.errors import TrainingError
from tests.training.toy import train
from tests.training.toy_runs import state_of, toy


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    config = toy(tmp_path / "run", explode_at=14, training={"checkpoint_every": 13})
    with pytest.raises(TrainingError, match=r"loss of step 14 is nan.*step-13"):
        train(config)
    good, _ = train(toy(tmp_path / "good", training={"max_steps": 24, "checkpoint_every": 13}))
    saved = torch.load(tmp_path / "run/checkpoints/step-13/optimizer.pt", weights_only=True)
    assert all(torch.isfinite(s["exp_avg"]).all() for s in saved["optimizer"]["state"].values())


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_equals_whole(tmp_path, accumulation):
    whole, _ = train(toy(tmp_path / "whole"))
    training = {"gradient_accumulation_steps": accumulation}
    parts, _ = train(toy(tmp_path / "parts", training=training))
    for name, value in state_of(whole).items():
        torch.testing.assert_close(state_of(parts)[name], value, atol=1e-6, rtol=0)
