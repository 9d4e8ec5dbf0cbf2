"""What happens now and then: early stopping, TensorBoard."""

from tests.training.toy import train
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
