"""A stop signal saves the state, and the run goes on as if nothing had happened."""

import os
import signal

import pytest

from nlpapp.errors import Interrupted
from nlpapp.training import checkpoint
from tests.training.toy import train
from tests.training.toy_runs import StopAt, check_identical, kill, state_of, toy


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_with_its_exit_code(tmp_path, number, code):
    whole, _ = train(
        toy(tmp_path / "whole", training={"evaluate_every": 1}), evaluate=StopAt(0, kill)
    )
    config = toy(tmp_path / "stopped", training={"evaluate_every": 1})
    send = StopAt(11, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as caught:
        train(config, evaluate=send)
    assert caught.value.exit_code == code
    assert checkpoint.newest_sound(tmp_path / "stopped" / "checkpoints") is not None
    resumed, _ = train(config, evaluate=StopAt(0, kill))
    check_identical(state_of(whole), state_of(resumed))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
