"""Learning-rate schedules: pure functions of the step, so that they have no state to save."""

import math
from dataclasses import dataclass
from typing import Literal

from nlpapp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves from 0 to its peak and down again."""

    name: Literal["linear", "cosine", "polynomial", "constant", "warmup_stable_decay"] = "linear"
    """Shape after warm-up: linear, cosine or polynomial decay over all remaining steps; constant;
    or warmup_stable_decay, constant and then linear over the last decay_ratio of the steps."""
    warmup_ratio: float = 0.1
    """Share of all steps in which the rate rises linearly from 0 to its peak."""
    decay_ratio: float = 0.2
    """Share of all steps in which warmup_stable_decay falls."""
    power: float = 2.0
    """Exponent of the polynomial decay."""
    final_ratio: float = 0.0
    """The rate at the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        for key in ("warmup_ratio", "decay_ratio", "final_ratio"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ConfigError(f"schedule.{key} is {value}; it is a share and must be in [0, 1]")
        if self.name == "warmup_stable_decay" and self.warmup_ratio + self.decay_ratio > 1:
            raise ConfigError(
                f"schedule.warmup_ratio {self.warmup_ratio} and schedule.decay_ratio "
                f"{self.decay_ratio} add up to more than 1"
            )


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
    }[config.name]
    return config.final_ratio + (1.0 - config.final_ratio) * remaining
