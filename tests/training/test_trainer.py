"""The loop: exact means over micro-batches, and a stop before a bad update."""

import json
import time

import pytest
import torch

from nlpapp.errors import TrainingError
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
