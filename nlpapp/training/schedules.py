"""Learning-rate schedules: pure functions of the step, so that they have no state to save."""

import math
from dataclasses import dataclass

from nlpapp.errors import ConfigError, nearest

SCHEDULES = (
    *("linear", "cosine", "polynomial", "constant", "warmup_stable_decay"),
    "inverse_square_root",
)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves from 0 to its peak and down again."""

    name: str = "linear"
    """Shape after warm-up: linear, cosine or polynomial decay over all remaining steps; constant;
    warmup_stable_decay, constant and then linear over the last decay_ratio of the steps; or
    inverse_square_root, which falls as 1 / sqrt(step) (Vaswani et al. 2017)."""
    warmup_ratio: float = 0.1
    """Share of all steps in which the rate rises linearly from 0 to its peak."""
    decay_ratio: float = 0.2
    """Share of all steps in which warmup_stable_decay falls."""
    power: float = 2.0
    """Exponent of the polynomial decay."""
    final_ratio: float = 0.0
    """The rate at the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ConfigError(
                f"schedule.name is '{self.name}'; expected {', '.join(SCHEDULES)}."
                + nearest(self.name, SCHEDULES)
            )
        for key in ("warmup_ratio", "decay_ratio", "final_ratio"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ConfigError(f"schedule.{key} is {value}; it is a share and must be in [0, 1]")
        if not self.power >= 0:  # Also where it is not a number.
            raise ConfigError(f"schedule.power is {self.power}; it must be 0 or more")
        if self.name == "warmup_stable_decay" and self.warmup_ratio + self.decay_ratio > 1:
            raise ConfigError(
                f"schedule.warmup_ratio {self.warmup_ratio} and schedule.decay_ratio "
                f"{self.decay_ratio} add up to more than 1"
            )


def schedule_position(
    step: int, total_steps: int, seconds: float, *, max_hours: float | None
) -> int:
    """Return how far the schedule has come, in steps: by the steps done or by the time spent.

    The time's share counts in whole steps, so that a limit that is never reached changes nothing.

    Args:
        step: optimizer steps done.
        total_steps: steps of the whole run.
        seconds: time spent on the run, that before a resume included.
        max_hours: time that the whole run may take; None: as long as its steps take.

    Returns:
        From ``step`` to ``total_steps``, which says that the run is over.
    """
    if max_hours is None:
        return step
    share = min(1.0, seconds / (3600 * max_hours))
    return max(step, int(share * total_steps))


def learning_rate_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return the factor on the peak rate for optimizer step ``step`` (the first is 0).

    Warm-up reaches the peak at step ``warmup_ratio * total_steps``, and never starts at exactly 0,
    so that the first step is not wasted; decay reaches ``final_ratio`` at ``total_steps``.
    """
    warmup_steps = round(config.warmup_ratio * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    decay_steps = total_steps - warmup_steps
    if config.name == "warmup_stable_decay":
        decay_steps = round(config.decay_ratio * total_steps)
    start = total_steps - decay_steps
    progress = min(1.0, max(0.0, (step - start) / max(1, decay_steps)))
    remaining = {
        "linear": 1.0 - progress,
        "warmup_stable_decay": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "polynomial": (1.0 - progress) ** config.power,
        "constant": 1.0,
        "inverse_square_root": math.sqrt(max(1, warmup_steps) / max(1, step)),
    }[config.name]
    return config.final_ratio + (1.0 - config.final_ratio) * remaining
