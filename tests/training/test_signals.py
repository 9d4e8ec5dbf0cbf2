"""A stop signal saves the state, and the run goes on as if nothing had happened."""

import os
import signal

import pytest

from nlpapp.errors import Interrupted
from nlpapp.training import checkpoint
from tests.training.toy import ToyObjective, train
from tests.training.toy_runs import check_identical, state_of, toy

RARELY = {"checkpoint_every": 1000}
"""Nothing else saves in the middle of the run."""


def signal_in_step_11(monkeypatch, number: int) -> None:
    real, calls = ToyObjective.__call__, []

    def call(self, *arguments):
        calls.append(arguments)
        if len(calls) == 11:
            os.kill(os.getpid(), number)
        return real(self, *arguments)

    monkeypatch.setattr(ToyObjective, "__call__", call)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_with_its_exit_code(tmp_path, monkeypatch, number, code):
    whole, _ = train(toy(tmp_path / "whole", dropout=0.3, training=RARELY))
    config = toy(tmp_path / "stopped", dropout=0.3, training=RARELY)
    signal_in_step_11(monkeypatch, number)
    with pytest.raises(Interrupted) as caught:
        train(config)
    assert caught.value.exit_code == code
    # A step reads the signal before it begins, so one that comes during it stops the next.
    folder = tmp_path / "stopped" / "checkpoints" / "step-12"
    message = f"stopped by signal {number:d} after step 12; saved {folder}. "
    assert str(caught.value) == f"{message}The same command goes on from there."
    checkpoint.verify(folder)
    assert checkpoint.read_state(folder)["trainer"]["step"] == 12
    resumed, _ = train(config)
    check_identical(state_of(whole), state_of(resumed))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_does_not_resume_by_itself_is_told_how(tmp_path, monkeypatch):
    signal_in_step_11(monkeypatch, signal.SIGTERM)
    with pytest.raises(Interrupted, match="same command with training.resume auto goes on from"):
        train(toy(tmp_path / "run", training=RARELY | {"resume": "never"}))
