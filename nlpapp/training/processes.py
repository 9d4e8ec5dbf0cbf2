"""The group of processes that a run is spread over."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def on_cpu_group() -> bool:
    """Whether several processes were started on a machine without an accelerator.

    Accelerate forms a group of CPU processes (gloo) only if it is told to use the CPU: otherwise
    every process of a ``torchrun`` would train the whole job alone.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def process_state() -> PartialState:
    """Return this process's rank, the number of processes, and the device."""
    return PartialState(cpu=on_cpu_group())


def from_main_process(make: Callable[..., T], *arguments: Any) -> T:
    """Return on every process what ``make(*arguments)`` returns on the main one, which calls it."""
    box: list[Any] = [make(*arguments) if process_state().is_main_process else None]
    broadcast_object_list(box)
    return box[0]
