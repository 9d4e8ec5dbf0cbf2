"""What a process needs that trains beside others: a GPU of its own, and a console that is quiet."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch

_held: list[IO[str]] = []
"""The open lock of this process: its slot is free again when the process ends, however it ends."""


def take_slot(folder: Path, slots: int) -> int:
    """Return the first of ``slots`` numbers that no other process has taken in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for slot in range(slots):
        file = open(folder / f".worker-{slot}", "w")  # noqa: SIM115 (is held open)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _held.append(file)
            return slot
    raise RuntimeError(f"all {slots} slots in {folder} are taken")


def use_own_device(folder: Path, workers: int) -> None:
    """Give this worker a GPU: its own, or with more workers than GPUs one that it shares."""
    if torch.cuda.is_available() and not _held:
        torch.cuda.set_device(take_slot(folder, workers) % torch.cuda.device_count())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep bars and log lines off the console, which several runs share; the runs' files get them.

    Nor does the log go to the program that started this process.
    """
    logger = logging.getLogger("nlpapp")
    before = logger.propagate
    logger.propagate = False
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logger.propagate = before
