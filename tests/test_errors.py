"""Errors help: they name the nearest thing that exists, and end with the right exit code."""

import signal

import pytest

from nlpapp import errors


@pytest.mark.parametrize(
    "name, hint",
    [("acuracy", " Did you mean 'accuracy'?"), ("f2", " Did you mean 'f1'?"), ("zzz", "")],
)
def test_nearest(name, hint):
    assert errors.nearest(name, ["accuracy", "f1", "pearson"]) == hint


def test_exit_codes():
    assert errors.DataError("x").exit_code == 1
    assert errors.ConfigError("x").exit_code == 2
    assert errors.Interrupted("x", signal_number=signal.SIGTERM).exit_code == 143
    assert errors.Interrupted("x", signal_number=signal.SIGINT).exit_code == 130
    assert issubclass(errors.CheckpointError, errors.NlpappError)
