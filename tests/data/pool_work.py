"""Work for the tests of pools, in a module that workers import in no time."""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from nlpapp.errors import ConfigError, DataError, Interrupted


def square(context, task, report):
    """Return the task's square plus the context, after a while that is longer for early tasks."""
    time.sleep(0.002 * (7 - task % 8))
    report(task, 10)
    report(1, 2 * task)
    return context + task * task


def process_id(context, task, report):
    time.sleep(0.02)
    return os.getpid()


def folder(context, task, report):
    return os.getcwd()


def visible_gpus(context, task, report):
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def describe_worker(context, task, report):
    """Return what a worker has imported, and how many threads libraries would start in it."""
    imported = sorted(sys.modules)
    import pyarrow

    names = ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS")
    return imported, pyarrow.cpu_count(), [os.environ.get(name) for name in names]


def fail_on_third(context, task, report):
    """Write a file for each task that is begun; the third raises what ``context`` names."""
    folder, kind = context
    Path(folder, str(task)).touch()
    if task == 2:
        if kind == "data":
            raise DataError("books.txt, line 7: not UTF-8.")
        if kind == "config":
            raise ConfigError("max_seq_length is 3; at least 8.")
        if kind == "interrupted":
            raise Interrupted("stopped", signal_number=15)
        if kind == "local":

            class SpecialError(DataError):
                pass

            raise SpecialError("of a class that cannot be sent")
        raise EOFError("the end of an archive")
    time.sleep(0.02)
    return task


def unsendable(context, task, report):
    return lambda: None


def kill_on(context, task, report):
    """End this process in the way and on the task that ``context`` names."""
    victim, signal_number = context
    if task == victim:
        time.sleep(0.1)
        if signal_number is None:
            os._exit(3)
        os.kill(os.getpid(), signal_number)
        time.sleep(60)
    return task


def killed_once(context, task, report):
    """Die on task 3 when it is tried for the first time; otherwise return its square."""
    report(task, 1)
    if task == 3:
        tried = Path(context, "tried")
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        Path(context, "again").touch()
    return task * task


def tell_slowly(context, task, report):
    """Report a little at a time over more than half a second."""
    for _ in range(30):
        time.sleep(0.02)
        report(100, 7)


def warn(context, task, report):
    logging.getLogger("nlpapp.text").warning("line %d is long", task)
    logging.getLogger("nlpapp.text").debug("nobody wants to know")


def wait_beside(context, task, report):
    """Leave the process id in a file, then stay busy for long."""
    Path(context, f"{os.getpid()}.pid").touch()
    time.sleep(60)
