"""Between data and loop."""

import signal

import pytest
import torch

from nlpapp.errors import DataError
from nlpapp.training.step_data import step_totals
from tests.training.toy import ToyObjective, make_steps, train
from tests.training.toy_runs import check_identical, state_of, toy


def test_workers_change_nothing(tmp_path):
    alone, _ = train(toy(tmp_path / "alone", dropout=0.3))
    helped, _ = train(toy(tmp_path / "helped", dropout=0.3, training={"num_workers": 2}))
    check_identical(state_of(alone), state_of(helped))


class OneProcess:
    """What `step_totals` asks of an accelerator."""

    num_processes = 1


def test_totals_of_a_step():
    batches = make_steps(8, shuffle=False).micro_batches(0, 0, rank=0, world_size=1, accumulation=2)
    known = {"signal_number": signal.SIGTERM, "seconds": 7.5}
    totals = step_totals(OneProcess(), ToyObjective(), batches, **known)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert totals.counts == {"targets": tokens} and totals.tokens == tokens
    assert totals.signal_number == signal.SIGTERM and totals.seconds == 7.5
    assert totals.is_complete


def test_a_step_with_nothing_to_predict_is_refused():
    (batch,) = make_steps(8).micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    with pytest.raises(DataError, match="nothing to predict"):
        step_totals(OneProcess(), ToyObjective(), [batch], signal_number=0, seconds=0.0)
