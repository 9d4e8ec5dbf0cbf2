"""How fast a run trains: tokens a second, time left, and the share of what the device can do."""

import functools
import logging

import torch

from nlpapp.training.callbacks import Callback, expected_steps
from nlpapp.training.device_speed import matmul_peak
from nlpapp.training.state import MetricSums
from nlpapp.training.trainer import Trainer

logger = logging.getLogger("nlpapp")

REPORT_AFTER = 20
"""Steps after which the speed is told; by then it has settled."""
WARM_UP = 5
"""Steps that do not count for it: compilation and the first use of memory are slow."""
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SpeedReport(Callback):
    """Tells the speed after the first steps, and the utilization of the whole run at its end.

    The model FLOP utilization (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) is the FLOPs
    that the model needs for its real tokens, over the FLOPs that matrix multiplications of this
    device reach, measured here, in the same time. What is spent on padding, on computing
    activations twice, or on waiting for data lowers it.
    """

    def __init__(self, *, flops_per_token: float | None, precision: str, compiled: bool) -> None:
        """Keep what the speed is compared with.

        Args:
            flops_per_token: of forward and backward pass; None: no utilization is told.
            precision: float32, bf16 or fp16: the arithmetic of the forward pass.
            compiled: tell how long the first step took.
        """
        self.flops_per_token, self.dtype = flops_per_token, DTYPES[precision]
        self.compiled = compiled
        self.steps = 0
        self.mark = (0.0, 0.0, 0.0)

    def on_start(self, trainer: Trainer) -> None:
        """Begin to count."""
        self.started = trainer.state.train_seconds

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        """Tell what there is to tell after this step."""
        self.steps += 1
        state = trainer.state
        if self.steps == 1 and self.compiled and trainer.accelerator.is_main_process:
            seconds = state.train_seconds - self.started
            logger.info("torch.compile: the first step took %.1f s", seconds)
        if self.steps == WARM_UP:
            self.mark = (state.step, state.tokens, state.train_seconds)
        if self.steps == REPORT_AFTER:
            self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        state = trainer.state
        steps, tokens, seconds = (
            now - then
            for now, then in zip(
                (state.step, state.tokens, state.train_seconds), self.mark, strict=True
            )
        )
        tokens_per_second = tokens / max(seconds, 1e-9)
        left = max(0, expected_steps(trainer) - state.step) * seconds / steps
        parts = [f"{tokens_per_second:,.0f} tokens/s"]
        parts.append(f"{_duration(left)} left without evaluations")
        utilization = self.utilization(trainer, tokens_per_second)
        if utilization is not None:
            parts.append(f"{utilization:.1%} of this device's matrix multiplications")
        if trainer.accelerator.is_main_process:
            logger.info("speed after step %d: %s", state.step, ", ".join(parts))

    def utilization(self, trainer: Trainer, tokens_per_second: float) -> float | None:
        """Return the share of the matrix-multiply peak of all processes' devices, from 0 to 1."""
        if self.flops_per_token is None:
            return None
        accelerator = trainer.accelerator
        peak = _peak(accelerator.device, self.dtype) * accelerator.num_processes
        return self.flops_per_token * tokens_per_second / peak


@functools.cache
def _peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return FLOP/s; the runs of one process share the measurement."""
    on_cpu = device.type == "cpu"
    # The numbers that dropout draws must not depend on when the peak is measured.
    with torch.random.fork_rng([] if on_cpu else [device], device_type=device.type):
        peak = matmul_peak(device, dtype)
    logger.info("measured peak of %s multiplications: %.3g FLOP/s", dtype, peak)
    return peak


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
