"""The tasks of a `TaskPool` as tasks of a Ray cluster: the same work, on many machines.

All machines need this package, and the files that tasks read and write, under the same paths;
those that are not absolute count from the folder in which the program runs. A task whose worker is
lost runs again, so that it must be able to find what it left half done.
"""

import logging
import math
import os
import reprlib
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from nlpapp.data.task_pool import (
    SINGLE_THREADED,
    Failure,
    LogSender,
    Report,
    Work,
    lost_worker,
    usable_cores,
)
from nlpapp.errors import ConfigError

RETRIES = 3
"""How often a task is tried again after its worker, or the machine, was lost."""
OBJECT_STORE_BYTES = 100_000_000
"""Shared memory of a Ray on this machine; tasks and results are small, the default is far more."""
_WATCH = "nlpapp: ends with its parent"


class RayTasks:
    """Runs tasks on Ray; `nlpapp.data.task_pool.TaskPool` makes it and describes the methods."""

    def __init__(self, *, workers: int | None, address: str | None, gpus: bool = False) -> None:
        """Check that Ray is there.

        Args:
            workers: cores of a Ray on this machine, or the most tasks at a time on a cluster.
            address: of a running cluster, such as ``auto`` or ``head:6379``; None: start one on
                this machine, which ends with `close`.
            gpus: whether tasks ask for GPUs where the cluster has some.

        Raises:
            ConfigError: Ray is not installed.
        """
        # Before the import, which reads it.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "executor is ray, but Ray is not installed; `pip install nlpapp[ray]`, or leave "
                "executor at local."
            ) from None
        self.ray: Any = ray
        self.workers = workers
        self.address = address
        self.gpus = gpus
        self.is_own = False

    def start(self, work: Work | None) -> None:
        """Start Ray on this machine, or connect to the cluster, unless the program is connected.

        Raises:
            ConfigError: there is no cluster at the address.
        """
        if self.ray.is_initialized():
            return
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        handler = signal.getsignal(signal.SIGTERM)
        # The errors of an address that is wrong, and of a Ray that does not come up.
        known = (OSError, ValueError, RuntimeError, self.ray.exceptions.RayError)
        try:
            if self.address is None:
                self.ray.init(
                    # Otherwise a cluster that happens to run here would be taken.
                    address="local",
                    num_cpus=self.workers or usable_cores(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **options,
                )
            else:
                _check_answer(self.address)
                self.ray.init(address=self.address, **options)
        except known as error:
            if self.address is None:
                raise ConfigError(
                    f"Ray does not start on this machine ({error}); its log is in /tmp/ray. "
                    "Processes without Ray do the same work: set executor to local."
                ) from None
            raise ConfigError(
                f"No Ray cluster answers at '{self.address}' ({error}). Start one with "
                "`ray start --head`, or leave ray_address out to use this machine alone."
            ) from None
        finally:
            # Ray puts its own in the place of the program's.
            is_main = threading.current_thread() is threading.main_thread()
            if is_main and handler is not None:  # None: not set from Python, so not to be set here.
                signal.signal(signal.SIGTERM, handler)
        self.is_own = True

    def run(
        self, work: Work, context: Any, tasks: Sequence[Any], on_progress: Report
    ) -> Iterator[tuple[int, Any]]:
        """Yield number and result of each task; progress is known at the end of each."""
        self.start(work)
        ray = self.ray
        resources = {"num_cpus": 1, "num_gpus": self._gpus_of_a_task()}
        remote = ray.remote(**resources, max_retries=RETRIES)(_attempt)
        level = logging.getLogger("nlpapp").getEffectiveLevel()
        job = ray.put((work, context, level, os.getcwd()))
        waiting = iter(enumerate(tasks))
        pending: dict[Any, tuple[int, Any]] = {}
        try:
            while True:
                # Asked each time, because clusters grow and shrink.
                while len(pending) < self._most_pending():
                    following = next(waiting, None)
                    if following is None:
                        break
                    pending[remote.remote(job, following[1])] = following
                if not pending:
                    return
                (reference,), _ = ray.wait(list(pending), num_returns=1)
                index, task = pending.pop(reference)
                result, failure, progress, records = self._answer(
                    reference, f"{index} of {len(tasks)}", task
                )
                for record in records:
                    logging.getLogger(record.name).handle(record)
                if failure is not None:
                    raise failure.exception(f"Task {index} ({reprlib.repr(task)})")
                if any(progress):
                    on_progress(*progress)
                yield index, result
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """End or leave the Ray that `start` started or connected to."""
        if self.is_own:
            self.ray.shutdown()
            self.is_own = False

    def _most_pending(self) -> int:
        if self.address is not None and self.workers is not None:
            return self.workers
        # One to work on and one to go on with for each core.
        return 2 * max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def _gpus_of_a_task(self) -> float:
        """Return 1, or the part of a GPU with which all workers run at once; 0 without GPUs."""
        found = self.ray.cluster_resources()
        gpus = int(found.get("GPU", 0)) if self.gpus else 0
        workers = self.workers or int(found.get("CPU", 1))
        return 1 / math.ceil(workers / gpus) if gpus else 0

    def _answer(self, reference: Any, which: str, task: Any) -> Any:
        """Return what `_attempt` returned.

        Raises:
            DataError: the worker was lost, and those of the further trials too.
            RuntimeError: the worker could not even call it.
        """
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            raise RuntimeError(f"Task {which} failed in a worker:\n{error}") from None
        except errors.RayError as error:
            how = f"of Ray was lost {RETRIES + 1} times ({type(error).__name__})"
            raise lost_worker(how, which, task) from None


def _check_answer(address: str) -> None:
    """Raise `OSError` if nobody listens at ``host:port``: Ray itself would try for a minute."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _attempt(
    job: tuple[Work, Any, int, str], task: Any
) -> tuple[Any, Failure | None, tuple[int, int], list[logging.LogRecord]]:
    """Do one task in a worker; returns its result or failure, its progress, and what it logged."""
    os.environ.update(SINGLE_THREADED)
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_end_with_parent, name=_WATCH, daemon=True).start()
    work, context, level, folder = job
    if os.path.isdir(folder):  # Workers begin where Ray was started.
        os.chdir(folder)
    records: list[logging.LogRecord] = []
    handler = LogSender(lambda _, record: records.append(record))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    done = [0, 0]

    def report(size: int, tokens: int) -> None:
        done[0] += size
        done[1] += tokens

    result = failure = None
    try:
        result = work(context, task, report)
    except Exception:
        failure = Failure.current()
    finally:
        root.removeHandler(handler)
    return result, failure, (done[0], done[1]), records


def _end_with_parent() -> None:
    """End this worker when the process that rules Ray on its machine is gone.

    Ray's own way is to wait for the end of the task, which would go on writing files beside those
    of a program that was started again.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
