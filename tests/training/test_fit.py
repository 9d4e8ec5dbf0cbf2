"""Resumed = uninterrupted, bit for bit; one process = two = accumulated, to 1e-6."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from nlpapp.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from nlpapp.training import checkpoint
from nlpapp.training.evaluate import evaluate_means, predict_rows
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from tests.training.toy import NUM_EXAMPLES, ToyConfig, ToyObjective, make_steps, train

QUICK = TrainingConfig(
    max_steps=24, log_every=5, tensorboard=False, optimizer=OptimizerConfig(learning_rate=0.01)
)
STEPS_PER_EPOCH = 9  # 70 examples in batches of 8


def toy(folder, **changes) -> ToyConfig:
    training = replace(QUICK, **changes.pop("training", {}))
    return ToyConfig(output_dir=str(folder), training=training, **changes)


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def check_identical(first, second) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class StopAt:
    """An evaluation that interrupts the run, as a kill would, when it is called the n-th time."""

    def __init__(self, call: int, action) -> None:
        self.call, self.action, self.calls = call, action, 0

    def __call__(self, model) -> dict[str, float]:
        self.calls += 1
        if self.calls == self.call:
            self.action()
        return {"score": float(self.calls)}


def kill() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("stop_at", [4, 5, 13, 20], ids=["mid-epoch", "next", "epoch 2", "epoch 3"])
@pytest.mark.parametrize("carry", [False, True])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop_at, carry):
    options = {"dropout": 0.3, "carry": carry, "training": {"evaluate_every": 1, "checkpoint_every": 2}}
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


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_with_its_exit_code(tmp_path, number, code):
    whole, _ = train(toy(tmp_path / "whole", training={"evaluate_every": 1}), evaluate=StopAt(0, kill))
    config = toy(tmp_path / "stopped", training={"evaluate_every": 1})
    send = StopAt(11, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as caught:
        train(config, evaluate=send)
    assert caught.value.exit_code == code
    assert checkpoint.newest_sound(tmp_path / "stopped" / "checkpoints") is not None
    resumed, _ = train(config, evaluate=StopAt(0, kill))
    check_identical(state_of(whole), state_of(resumed))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog):
    options = {"training": {"checkpoint_every": 5, "keep_checkpoints": 4}}
    whole, _ = train(toy(tmp_path / "run", **options))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert checkpoint.steps_on_disk(checkpoints) == [10, 15, 20, 24]
    for step, name in ((24, "model.safetensors"), (20, "optimizer.pt")):
        path = checkpoints / f"step-{step}" / name
        path.write_bytes(path.read_bytes()[:-10])
    with caplog.at_level("WARNING", logger="nlpapp"):
        resumed, _ = train(toy(tmp_path / "run", **options))
    assert "step-24/model.safetensors is damaged" in caplog.text
    assert "step-20/optimizer.pt is damaged" in caplog.text
    check_identical(state_of(whole), state_of(resumed))


def test_a_named_checkpoint_that_is_damaged_is_refused(tmp_path):
    train(toy(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints" / "step-24"
    (folder / "rank-0.pt").unlink()
    with pytest.raises(CheckpointError, match="rank-0.pt is missing"):
        train(toy(tmp_path / "run", training={"resume": str(folder)}))
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        train(toy(tmp_path / "run", training={"resume": str(folder) + "9"}))


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tmp_path, monkeypatch):
    real = checkpoint.save_model

    def full(model, path):
        if "step-20" in path:
            raise OSError(28, "No space left on device")
        real(model, path)

    monkeypatch.setattr(checkpoint, "save_model", full)
    config = toy(tmp_path / "run", training={"checkpoint_every": 10})
    with pytest.raises(CheckpointError, match=r"the disk is full.*step-10"):
        train(config)
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-10"]
    monkeypatch.setattr(checkpoint, "save_model", real)
    resumed, _ = train(config)
    whole, _ = train(toy(tmp_path / "whole", training={"checkpoint_every": 10}))
    check_identical(state_of(whole), state_of(resumed))


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


def run_processes(folder, processes: int, *options: str) -> dict:
    weights = folder.with_suffix(".pt")
    command = [sys.executable, "-m", "tests.training.toy", str(folder), str(weights), *options]
    if processes > 1:
        command[1:2] = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone", "-m"]
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"processes {processes}" in result.stdout
    return torch.load(weights, weights_only=True)


def test_two_processes_equal_one(tmp_path):
    """70 examples in steps of 8: the last step of an epoch has 6, three for each process."""
    one, two = run_processes(tmp_path / "one", 1), run_processes(tmp_path / "two", 2)
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, atol=1e-6, rtol=0)
    # Rows come back in the order of the examples, none lost or repeated.
    assert two["rows"].shape == (NUM_EXAMPLES,)
    torch.testing.assert_close(two["rows"], one["rows"], atol=1e-5, rtol=0)


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


def test_early_stopping(tmp_path):
    scores = iter([3.0, 2.0, 2.5, 2.2, 1.0, 0.0])
    config = toy(tmp_path / "run", training={"evaluate_every": 2, "early_stopping_patience": 2})
    _, metrics = train(
        config, evaluate=lambda m: {"s": next(scores)}, best_metric="s", greater_is_better=False
    )
    assert metrics["s"] == 2.0 and metrics["steps"] == 8


def test_evaluation_is_the_exact_mean_over_items(tmp_path):
    model, _ = train(toy(tmp_path / "run"))
    whole = evaluate_means(model, ToyObjective(), make_steps(NUM_EXAMPLES, shuffle=False))
    parts = evaluate_means(model, ToyObjective(), make_steps(7, shuffle=False))
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert evaluate_means(model, ToyObjective(), make_steps(7, shuffle=False)) == parts


def test_predict_rows_keeps_the_order(tmp_path):
    model, _ = train(toy(tmp_path / "run"))

    def forward(model, batch):
        return model(batch["input_ids"], batch["attention_mask"])

    whole = predict_rows(model, forward, make_steps(NUM_EXAMPLES, shuffle=False))
    parts = predict_rows(model, forward, make_steps(9, shuffle=False))
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16"])
def test_lower_precision_trains(tmp_path, precision):
    _, metrics = train(toy(tmp_path / "run", training={"precision": precision}))
    assert metrics["steps"] == 24


def test_tensorboard_events_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(toy(tmp_path / "run", training={"tensorboard": True}))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 15, 20, 24]


@pytest.mark.parametrize(
    "options",
    [{"max_steps": 0}, {"max_steps": None, "num_epochs": 0}, {"keep_checkpoints": 0}, {"num_workers": -1}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        TrainingConfig(**options)


def test_workers_change_nothing(tmp_path):
    alone, _ = train(toy(tmp_path / "alone", dropout=0.3))
    helped, _ = train(toy(tmp_path / "helped", dropout=0.3, training={"num_workers": 2}))
    check_identical(state_of(alone), state_of(helped))
