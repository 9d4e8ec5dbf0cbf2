"""What happens now and then: early stopping, TensorBoard, the bar, the curves."""

import logging
from types import SimpleNamespace

import pytest

from nlpapp.training import callbacks
from nlpapp.training.callbacks import Curves, ProgressBar, expected_steps
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.state import TrainerState
from tests.training.toy import ToyObjective, train
from tests.training.toy_runs import toy


def test_early_stopping(tmp_path):
    scores = iter([3.0, 2.0, 2.5, 2.2, 1.0, 0.0])
    config = toy(tmp_path / "run", training={"evaluate_every": 2, "early_stopping_patience": 2})
    _, metrics = train(
        config, evaluate=lambda m: {"s": next(scores)}, best_metric="s", greater_is_better=False
    )
    assert metrics["s"] == 2.0 and metrics["steps"] == 8


def test_tensorboard_events_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(toy(tmp_path / "run", training={"tensorboard": True}))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 15, 20, 24]


def trainer_at(step: int, *, seconds: float = 0.0, max_hours: float | None = None):
    """Return what the bar reads of a trainer: 100 steps, 50 tokens and half a second each."""
    return SimpleNamespace(
        state=TrainerState(step=step, tokens=50.0 * step, train_seconds=0.5 * step),
        max_steps=100,
        max_hours=max_hours,
        checkpointer=SimpleNamespace(run=SimpleNamespace(seconds=seconds)),
        objective=ToyObjective(),
    )


def test_bar_shows_loss_and_speed():
    bar = ProgressBar(description="run", enabled=True)
    bar.on_start(trainer_at(10))
    bar.on_step(trainer_at(11), {"loss": [6.0, 4]})
    assert bar.bar.postfix == "loss=1.5, tokens/s=100"
    assert bar.bar.n == 11 and bar.bar.total == 100
    bar.on_step(trainer_at(12), {"loss": [8.0, 4]})
    assert bar.bar.postfix == "loss=1.5, tokens/s=100", "the loss is read once a second at most"
    bar.close()


@pytest.mark.parametrize(
    ("seconds", "max_hours", "expected"),
    [(900, None, 100), (900, 1.0, 80), (300, 1.0, 100)],
    ids=["steps only", "the clock is ahead", "the clock is behind"],
)
def test_steps_that_the_time_is_enough_for(seconds, max_hours, expected):
    """20 of 100 steps in a quarter of the time: 80 in all."""
    assert expected_steps(trainer_at(20, seconds=seconds, max_hours=max_hours)) == expected


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.open(tmp_path / "run", config=toy(tmp_path / "run"), command="toy", seed=1)


def test_curves_are_drawn_where_there_is_something_new(run, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock.now)
    drawn = []

    def draw(records, picture):
        drawn.append((clock.now, records.name, picture.name))
        clock.now += 2.0  # 2 s of drawing: nothing more for 100 s.

    curves = Curves(run, draw)
    for second in (0, 10, 20, 60, 111, 130, 300):
        clock.now = max(clock.now, float(second))
        if second in (10, 60):
            run.log(second, "train", {"loss": 1.0})
        curves.on_step(trainer_at(1), {})
    assert drawn == [(when, "metrics.jsonl", "curves.png") for when in (10.0, 130.0)]


def test_curves_that_cannot_be_drawn_stop_nothing(run, caplog):
    logging.getLogger("nlpapp").propagate = True
    calls = []

    def draw(records, picture):
        calls.append(picture)
        raise OSError("no space")

    curves = Curves(run, draw)
    for step in range(3):
        run.log(step, "train", {"loss": 1.0})
        curves.on_step(trainer_at(step), {})
    assert len(calls) == 1
    assert caplog.text.count("the curves cannot be drawn, training goes on without: no space") == 1
