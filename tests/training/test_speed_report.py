"""What is told of the speed: exact figures from a clock and a peak that are given."""

import logging
from types import SimpleNamespace

import pytest
import torch

from nlpapp.training import speed_report
from nlpapp.training.speed_report import SpeedReport
from nlpapp.training.state import TrainerState


@pytest.fixture
def trainer(monkeypatch):
    """Training at 10 tokens a second on two devices that multiply 1,000 FLOP a second each."""
    monkeypatch.setattr(speed_report, "matmul_peak", lambda device, dtype: 1000.0)
    monkeypatch.setattr(speed_report, "expected_steps", lambda trainer: 140)
    speed_report._peak.cache_clear()
    yield SimpleNamespace(
        state=TrainerState(),
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), num_processes=2, is_main_process=True
        ),
    )
    speed_report._peak.cache_clear()


def run(report, trainer, steps):
    """The first steps are ten times as slow as the rest."""
    report.on_start(trainer)
    for _ in range(steps):
        trainer.state.step += 1
        trainer.state.tokens += 300.0
        trainer.state.train_seconds += 300.0 if trainer.state.step <= 5 else 30.0
        report.on_step(trainer, {})


def test_after_twenty_steps_speed_time_left_and_utilization_are_told(trainer, caplog):
    caplog.set_level(logging.INFO, logger="nlpapp")
    report = SpeedReport(flops_per_token=60.0, precision="float32", compiled=False)
    run(report, trainer, 19)
    assert not caplog.messages
    run(report, trainer, 1)
    told = [message for message in caplog.messages if message.startswith("speed")]
    # 120 steps of 30 seconds; 10 tokens/s x 60 FLOPs of 2 x 1,000.
    assert told == [
        "speed after step 20: 10 tokens/s, 1 h 00 min left without evaluations, "
        "30.0% of this device's matrix multiplications"
    ]
    assert "torch.compile" not in caplog.text


def test_without_flops_there_is_no_utilization(trainer, caplog):
    caplog.set_level(logging.INFO, logger="nlpapp")
    report = SpeedReport(flops_per_token=None, precision="bf16", compiled=True)
    run(report, trainer, 20)
    assert report.utilization(trainer, 10.0) is None
    assert "matrix" not in caplog.text
    assert caplog.messages[0] == "torch.compile: the first step took 300.0 s"


def test_the_peak_is_measured_once_and_draws_nothing_from_dropouts_generator(trainer, monkeypatch):
    calls = []

    def peak(device, dtype):
        calls.append(dtype)
        torch.rand(7)
        return 1000.0

    monkeypatch.setattr(speed_report, "matmul_peak", peak)
    report = SpeedReport(flops_per_token=60.0, precision="bf16", compiled=False)
    state = torch.get_rng_state()
    assert report.utilization(trainer, 10.0) == report.utilization(trainer, 10.0) == 0.3
    assert calls == [torch.bfloat16]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (600, "10 min"), (3600 * 25 + 90, "25 h 02 min")]
)
def test_durations(seconds, text):
    assert speed_report._duration(seconds) == text
