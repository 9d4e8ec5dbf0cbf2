"""The group of processes that a run is spread over."""

import os

import torch
from accelerate import PartialState


def on_cpu_group() -> bool:
    """Whether several processes were started on a machine without an accelerator.

    Accelerate forms a group of CPU processes (gloo) only if it is told to use the CPU: otherwise
    every process of a ``torchrun`` would train the whole job alone.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def process_state() -> PartialState:
    """Return this process's rank, the number of processes, and the device."""
    return PartialState(cpu=on_cpu_group())
