"""Learning-rate schedules against their closed forms, and transformers' own."""

import pytest
import torch
from transformers import (
    get_cosine_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
)

from nlpapp.errors import ConfigError
from nlpapp.training.schedules import ScheduleConfig, learning_rate_factor, schedule_position


def factors(total: int, **options) -> list[float]:
    config = ScheduleConfig(**options)
    return [learning_rate_factor(config, step, total) for step in range(total + 1)]


@pytest.mark.parametrize(
    "name, reference",
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_decay_equals_transformers(name, reference):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = reference(optimizer, num_warmup_steps=10, num_training_steps=100)
    ours = factors(100, name=name, warmup_ratio=0.1)
    for step in range(100):
        if step >= 10:
            assert ours[step] == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_warmup_rises_to_the_peak_without_a_wasted_first_step():
    ours = factors(20, warmup_ratio=0.25)
    assert ours[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"name": "constant"}, [1, 1, 1, 1, 1]),
        ({"name": "linear"}, [1, 0.75, 0.5, 0.25, 0]),
        ({"name": "linear", "final_ratio": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"name": "polynomial", "power": 2.0}, [1, 0.5625, 0.25, 0.0625, 0]),
        ({"name": "warmup_stable_decay", "decay_ratio": 0.5}, [1, 1, 1, 0.5, 0]),
    ],
)
def test_shapes(options, expected):
    assert factors(4, warmup_ratio=0.0, **options) == pytest.approx(expected)


@pytest.mark.parametrize("options", [{"warmup_ratio": 1.5}, {"final_ratio": -0.1}])
def test_shares_outside_their_range_are_refused(options):
    with pytest.raises(ConfigError, match="must be in"):
        ScheduleConfig(**options)


@pytest.mark.parametrize("power", [-1.0, float("nan")])
def test_a_power_that_is_none_is_refused(power):
    with pytest.raises(ConfigError, match=f"schedule.power is {power}; it must be 0 or more"):
        ScheduleConfig(power=power)


def test_warmup_and_decay_must_fit():
    with pytest.raises(ConfigError, match="more than 1"):
        ScheduleConfig(name="warmup_stable_decay", warmup_ratio=0.6, decay_ratio=0.5)


@pytest.mark.parametrize(
    "step, seconds, max_hours, expected",
    [
        (7, 1e9, None, 7),  # No limit.
        (0, 3600.0, 1000.0, 0),  # The time's share is a tenth of a step: it changes nothing.
        (7, 1800.0, 1.0, 50),  # Half of the time is over.
        (60, 1800.0, 1.0, 60),  # The steps are ahead.
        (7, 3599.0, 1.0, 99),
        (7, 3600.0, 1.0, 100),
        (7, 7200.0, 1.0, 100),
    ],
)
def test_the_schedule_follows_steps_or_time_whichever_is_ahead(step, seconds, max_hours, expected):
    assert schedule_position(step, 100, seconds, max_hours=max_hours) == expected


def test_inverse_square_root_equals_transformers():
    config = ScheduleConfig(name="inverse_square_root", warmup_ratio=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=10)
    for step in range(100):
        if step >= 10:  # Ours does not begin at exactly 0.
            ours = learning_rate_factor(config, step, 100)
            assert ours == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_an_unknown_schedule_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="'lineer'; expected linear, .* Did you mean 'linear'"):
        ScheduleConfig(name="lineer")
