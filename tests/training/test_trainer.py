"""The loop: exact means over micro-batches, and a stop before a bad update."""

import json
import os
import signal
import time

import pytest
import torch

from nlpapp.errors import Interrupted, TrainingError
from nlpapp.training import run_folder
from nlpapp.training.schedules import ScheduleConfig
from tests.training.toy import ToyObjective, train
from tests.training.toy_runs import StopAt, check_identical, kill, state_of, toy


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


class Clock:
    """Stands for the module time in a run folder: each step takes a minute."""

    strftime = staticmethod(time.strftime)

    def __init__(self, start: float) -> None:
        self.now = start

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock, real = Clock(5000.0), ToyObjective.__call__

    def call(self, *arguments):
        clock.now += 60.0
        return real(self, *arguments)

    monkeypatch.setattr(run_folder, "time", clock)
    monkeypatch.setattr(ToyObjective, "__call__", call)
    return clock


LINEAR = {"schedule": ScheduleConfig(warmup_ratio=0.0), "log_every": 1}


def test_time_ends_a_run_at_a_rate_of_zero(tmp_path, clock):
    """Of 24 steps a tenth of an hour allows six; the seventh finds the time up."""
    options = {"training": LINEAR | {"max_hours": 0.1, "evaluate_every": 24}}
    _, metrics = train(toy(tmp_path / "run", **options), evaluate=StopAt(0, kill))
    assert metrics["steps"] == 7 and metrics["score"] == 1  # The end is evaluated.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    rates = [record["learning_rate"] for record in records if record["split"] == "train"]
    assert rates == pytest.approx([0.01 * (1 - step / 6) for step in range(7)])
    assert (tmp_path / "run" / "checkpoints" / "step-7").is_dir()


def test_time_goes_on_where_a_run_was_stopped(tmp_path, clock):
    training = LINEAR | {"max_hours": 0.1, "evaluate_every": 1, "checkpoint_every": 2}
    options = {"dropout": 0.3, "training": training}
    whole, _ = train(toy(tmp_path / "whole", **options), evaluate=StopAt(0, kill))
    with pytest.raises(KeyboardInterrupt):
        train(toy(tmp_path / "broken", **options), evaluate=StopAt(5, kill))
    clock.now = 99.0  # Another machine.
    resumed, metrics = train(toy(tmp_path / "broken", **options), evaluate=StopAt(0, kill))
    assert metrics["steps"] == 7
    check_identical(state_of(whole), state_of(resumed))


def test_a_limit_that_is_not_reached_changes_nothing(tmp_path):
    free, _ = train(toy(tmp_path / "free", dropout=0.3))
    limited, _ = train(toy(tmp_path / "limited", dropout=0.3, training={"max_hours": 1000.0}))
    check_identical(state_of(free), state_of(limited))


@pytest.mark.parametrize("limit", ["time", "patience"])
def test_a_run_that_had_ended_does_no_further_step(tmp_path, clock, limit):
    """As after a kill between the last checkpoint and what is done with the model."""
    training = LINEAR | {"evaluate_every": 1, "checkpoint_every": 1}
    training |= {"max_hours": 0.1} if limit == "time" else {"early_stopping_patience": 6}
    options = {"best_metric": "score", "greater_is_better": limit == "time"}
    model, metrics = train(
        toy(tmp_path / "run", training=training), evaluate=StopAt(0, kill), **options
    )
    calls = StopAt(1, kill)
    again, same = train(toy(tmp_path / "run", training=training), evaluate=calls, **options)
    assert same["steps"] == metrics["steps"] == 7 and not calls.calls
    check_identical(state_of(model), state_of(again))


def test_a_signal_during_the_last_evaluation_stops_what_follows(tmp_path):
    config = toy(tmp_path / "run", training={"evaluate_every": 24})
    asked = StopAt(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="after step 24; saved") as caught:
        train(config, evaluate=asked)
    assert caught.value.exit_code == 143
    resumed, metrics = train(config, evaluate=asked)
    assert metrics["score"] == 1 and asked.calls == 1
    whole, _ = train(toy(tmp_path / "whole"))
    check_identical(state_of(whole), state_of(resumed))


def test_the_start_is_evaluated_once_and_remembered(tmp_path):
    training = {"evaluate_every": 10, "checkpoint_every": 10}
    whole, _ = train(toy(tmp_path / "whole", dropout=0.3, training=training))
    config = toy(tmp_path / "run", dropout=0.3, training=training)
    asked = StopAt(3, kill)
    with pytest.raises(KeyboardInterrupt):
        train(config, evaluate=asked, evaluate_at_start=True)
    resumed, metrics = train(config, evaluate=asked, evaluate_at_start=True)
    # Calls: the start, step 10, step 20 (killed), and again step 20, step 24.
    assert (metrics["initial_score"], metrics["score"], asked.calls) == (1, 5, 5)
    check_identical(state_of(whole), state_of(resumed))
