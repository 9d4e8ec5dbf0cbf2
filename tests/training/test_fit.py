"""From options to a run: exact resume, best weights, early stopping."""

import json

import pytest

from nlpapp.errors import ConfigError
from nlpapp.training import checkpoint
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
