"""From options to a run: exact resume, best weights, early stopping."""

import json
import re
import time

import pytest
import torch

from nlpapp.errors import ConfigError
from nlpapp.training import checkpoint, speed_report
from nlpapp.training.fit import TrainingConfig
from tests.training.toy import train
from tests.training.toy_runs import (
    STEPS_PER_EPOCH,
    StopAt,
    check_identical,
    kill,
    state_of,
    toy,
)


@pytest.mark.parametrize("stop_at", [4, 5, 13, 20], ids=["mid-epoch", "next", "epoch 2", "epoch 3"])
@pytest.mark.parametrize("carry", [False, True])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop_at, carry):
    options = {
        "dropout": 0.3,
        "carry": carry,
        "training": {"evaluate_every": 1, "checkpoint_every": 2},
    }
    whole, _ = train(toy(tmp_path / "whole", **options), evaluate=StopAt(0, kill))
    broken = toy(tmp_path / "broken", **options)
    with pytest.raises(KeyboardInterrupt):
        train(broken, evaluate=StopAt(stop_at, kill))
    resumed, metrics = train(broken, evaluate=StopAt(0, kill))
    check_identical(state_of(whole), state_of(resumed))
    assert metrics["steps"] == 24
    # The log continues without gaps or repetitions.
    for name in ("whole", "broken"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [r["step"] for r in records if r["split"] == "evaluation"] == list(range(1, 25))


def test_the_best_weights_are_loaded_at_the_end(tmp_path):
    seen = {}

    def evaluate(model):
        score = {1: 0.1, 2: 0.9}.get(len(seen) + 1, 0.5)
        seen[len(seen) + 1] = (score, state_of(model))
        return {"score": score}

    config = toy(tmp_path / "run", training={"keep_checkpoints": 1})
    model, metrics = train(config, evaluate=evaluate, best_metric="score")
    assert metrics["score"] == 0.9 and metrics["best_step"] == 2 * STEPS_PER_EPOCH
    check_identical(state_of(model), seen[2][1])
    assert checkpoint.steps_on_disk(tmp_path / "run" / "checkpoints") == [18, 24]


@pytest.mark.parametrize("precision", ["bf16"])
def test_lower_precision_trains(tmp_path, precision):
    _, metrics = train(toy(tmp_path / "run", training={"precision": precision}))
    assert metrics["steps"] == 24


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 0},
        {"max_steps": None, "num_epochs": 0},
        {"keep_checkpoints": 0},
        {"num_workers": -1},
        {"max_hours": 0.0},
        {"max_grad_norm": -1.0},
        {"max_grad_norm": float("nan")},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        TrainingConfig(**options)


class Uneven:
    """Epochs of 3, 5, 4 steps, as batches under a token budget give."""

    def num_steps(self, epoch):
        return (3, 5, 4)[epoch]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 8), (3, 12), (0.5, 2), (1.5, 6)])
def test_epochs_of_uneven_length_are_added_up(epochs, steps):
    assert TrainingConfig(num_epochs=epochs).total_steps(Uneven()) == steps
    assert TrainingConfig(num_epochs=epochs, max_steps=7).total_steps(Uneven()) == 7


def test_a_compiled_model_is_the_same_model(tmp_path, monkeypatch):
    """Compiled without code generation; the names of the weights and their values stay."""
    real, seen = torch.nn.Module.compile, []

    def compile_eagerly(self, **options):
        seen.append(options)
        real(self, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    plain, _ = train(toy(tmp_path / "plain", training={"max_steps": 3}))
    compiled, _ = train(toy(tmp_path / "compiled", training={"max_steps": 3, "compile": True}))
    assert seen == [{"dynamic": True}]
    first, second = state_of(plain), state_of(compiled)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert "torch.compile: the first step took" in (tmp_path / "compiled/train.log").read_text()


def test_the_first_step_is_timed_without_the_evaluation_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)
    config = toy(tmp_path / "run", training={"max_steps": 1, "compile": True})

    def slow(model):
        time.sleep(0.5)
        return {"score": 1.0}

    _, metrics = train(config, evaluate=slow, evaluate_at_start=True)
    (told,) = re.findall("first step took (.*) s", (tmp_path / "run" / "train.log").read_text())
    trained = metrics["tokens"] / metrics["tokens_per_second"]
    assert float(told) == pytest.approx(trained, abs=0.06)


def test_gradient_checkpointing_needs_a_model_that_has_it(tmp_path):
    with pytest.raises(ConfigError, match="ToyModel has none"):
        train(toy(tmp_path / "run", training={"gradient_checkpointing": True}))


def test_utilization_and_curves_are_told_where_they_can_be(tmp_path, monkeypatch):
    monkeypatch.setattr(speed_report, "matmul_peak", lambda device, dtype: 1e6)
    speed_report._peak.cache_clear()
    drawn = []
    _, metrics = train(
        toy(tmp_path / "run"), flops_per_token=2.0, draw_curves=lambda *paths: drawn.append(paths)
    )
    speed_report._peak.cache_clear()
    assert metrics["model_flops_utilization"] == 2.0 * metrics["tokens_per_second"] / 1e6
    assert metrics["tokens"] > 0
    run = tmp_path / "run"
    assert drawn[0] == (run / "metrics.jsonl", run / "plots" / "curves.png")


def test_time_that_is_up_ends_the_run_with_a_rate_of_zero(tmp_path):
    """An hour's ten-millionth is over at the first look at the clock."""
    _, metrics = train(toy(tmp_path / "run", training={"max_hours": 1e-7, "log_every": 1}))
    assert metrics["steps"] == 1
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["learning_rate"] == 0.0
