"""Run one function over many tasks: in this process, in one process per core, or with Ray.

A task is small (a file name and a range, say): what it reads and writes is on disk. Results come
as they are finished, in no order, each with the number of its task, so that what is made of them
depends neither on the number of workers nor on their speed.
"""

import contextlib
import logging
import logging.handlers
import multiprocessing
import multiprocessing.resource_tracker
import os
import reprlib
import signal
import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol

from nlpapp.errors import ConfigError, DataError, NlpappError, nearest

Executor = Literal["local", "ray"]
Report = Callable[[int, int], None]
"""Takes the bytes and the tokens that are done since the last call."""
Work = Callable[[Any, Any, Report], Any]
"""work(context, task, report) -> result: a function of a module that workers can import."""

SINGLE_THREADED = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
}
"""Environment of a worker: there is one for each core. Arrow takes its own number from OMP's."""
PROGRESS_SECONDS = 0.25
"""How often a task in work tells how far it is."""


class TaskPool:
    """Workers that are started once and serve several calls of `run`.

    As a context manager it ends them on leaving. It may also be used without ``with`` if `close` is
    called. With one local worker the tasks run in this process, and nothing is started.
    """

    def __init__(
        self,
        *,
        executor: Executor = "local",
        workers: int | None = None,
        ray_address: str | None = None,
        gpus: bool = False,
    ) -> None:
        """Check the options; nothing is started yet.

        Args:
            executor: ``local``: processes of this machine; ``ray``: tasks of a Ray cluster.
            workers: tasks that run at a time; None: as many as there are cores.
            ray_address: a running cluster to use; None: one on this machine, for this pool alone.
            gpus: on a Ray that has GPUs each task gets one, or with more workers a part of one.

        Raises:
            ConfigError: an option cannot be, or Ray is asked for and not installed.
        """
        if executor not in ("local", "ray"):
            hint = nearest(executor, ("local", "ray"))
            raise ConfigError(f"executor '{executor}' is unknown; expected local or ray.{hint}")
        if workers is not None and workers < 1:
            raise ConfigError(f"workers is {workers}; it must be at least 1, or left out.")
        if ray_address is not None and executor != "ray":
            raise ConfigError(
                f"ray_address is '{ray_address}', but executor is local; set executor to ray."
            )
        self._backend: _Backend
        if executor == "ray":
            from nlpapp.data.ray_pool import RayTasks

            self._backend = RayTasks(workers=workers, address=ray_address, gpus=gpus)
        elif (count := workers or usable_cores()) == 1:
            self._backend = _SameProcess()
        else:
            self._backend = _Processes(count)
        self._running = False

    def start(self, work: Work | None = None) -> None:
        """Begin to start the workers; `run` does it otherwise.

        Local workers come up, and import what ``work`` is of, while the caller goes on; Ray is up
        when this returns.
        """
        self._backend.start(work)

    def run(
        self,
        work: Work,
        context: Any,
        tasks: Sequence[Any],
        *,
        on_progress: Report = lambda size, tokens: None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield the number of a task and its result, as they are finished.

        Tasks are taken from ``tasks`` only when a worker is free for them. After an error no
        further task is begun, those in work are given up, and what was finished is yielded first.

        Args:
            work: called as ``work(context, task, report)`` for each task.
            context: what is the same for all tasks; sent to each worker once.
            tasks: small objects that can be pickled, as can ``context`` and the results.
            on_progress: called here a few times a second with the bytes and tokens that were
                reported since its last call.

        Raises:
            NlpappError: as ``work`` raised it.
            DataError: a worker was lost; the text says on which task.
            RuntimeError: ``work`` raised anything else; the text has its traceback.
        """
        if getattr(work, "__module__", None) == "__main__":
            raise ValueError(f"{work!r} is of the main module, which workers do not import.")
        if self._running:
            raise RuntimeError("This pool is at work; take all results of its last run first.")
        self._running = True
        try:
            yield from self._backend.run(work, context, tasks, on_progress)
        finally:
            self._running = False

    def close(self) -> None:
        """End the workers at once."""
        self._backend.close()

    def __enter__(self) -> "TaskPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Failure:
    """An exception of a task, in a form that can be sent to another process."""

    kind: type[NlpappError] | None
    """Its class if it is an error for the user; None: any other."""
    text: str
    """The words of an error for the user, the traceback of any other."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Attributes, such as the exit code."""

    @classmethod
    def current(cls) -> "Failure":
        """Describe the exception that is being handled."""
        error = sys.exc_info()[1]
        if isinstance(error, NlpappError):
            return cls(type(error), str(error), dict(vars(error)))
        return cls(None, traceback.format_exc())

    def exception(self, task: str) -> Exception:
        """Return what to raise for ``task``."""
        if self.kind is None:
            return RuntimeError(f"{task} failed in a worker:\n{self.text}")
        # Without __init__: its parameters may differ from one class of errors to the next.
        error = self.kind.__new__(self.kind, self.text)
        vars(error).update(self.fields)
        return error


class _Backend(Protocol):
    """What a pool is made of; `TaskPool` says what the methods do."""

    def start(self, work: Work | None) -> None: ...

    def run(
        self, work: Work, context: Any, tasks: Sequence[Any], on_progress: Report
    ) -> Iterator[tuple[int, Any]]: ...

    def close(self) -> None: ...


class _SameProcess:
    """No worker at all: easy to debug, and nothing to wait for."""

    def start(self, work: Work | None) -> None:
        pass

    def run(
        self, work: Work, context: Any, tasks: Sequence[Any], on_progress: Report
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            progress = _Progress(on_progress)
            result = work(context, task, progress)
            progress.flush()
            yield index, result

    def close(self) -> None:
        pass


class _Processes:
    """Spawned processes, each with a pipe of its own and one task at a time.

    A pipe each, and no queue for all: a worker that is killed then takes no lock with it, and what
    it was working on is known. Never forked: Arrow and tokenizers have threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.workers: list[_Worker] = []

    def start(self, work: Work | None) -> None:
        self._start(self.count)
        if work is not None:
            for worker in self.workers:
                worker.prepare(work)

    def run(
        self, work: Work, context: Any, tasks: Sequence[Any], on_progress: Report
    ) -> Iterator[tuple[int, Any]]:
        self._start(min(self.count, len(tasks)))
        job = (work, context)
        waiting = iter(enumerate(tasks))
        finished: deque[tuple[int, Any]] = deque()
        error: Exception | None = None
        try:
            while True:
                if error is None:
                    # Before the results are yielded: the caller may take its time with them.
                    _hand_out(self.workers, job, waiting)
                while finished:
                    yield finished.popleft()
                if error is not None:
                    raise error
                busy = {worker.connection: worker for worker in self.workers if worker.is_busy}
                if not busy:
                    return
                ready = wait(list(busy))
                for worker in [busy[connection] for connection in busy if connection in ready]:
                    problem = _receive(worker, len(tasks), finished, on_progress)
                    error = error or problem
        finally:
            self._drop([worker for worker in self.workers if worker.is_busy])

    def close(self) -> None:
        self._drop(list(self.workers))

    def _start(self, count: int) -> None:
        self._drop([worker for worker in self.workers if not worker.process.is_alive()])
        if len(self.workers) < count:
            with _starting():
                self.workers += [_Worker() for _ in range(count - len(self.workers))]

    def _drop(self, workers: "list[_Worker]") -> None:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()
            self.workers.remove(worker)


class _Worker:
    """One process, seen from the parent."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, other = spawn.Pipe()
        level = logging.getLogger("nlpapp").getEffectiveLevel()
        self.process = spawn.Process(
            target=_serve, args=(other, level), name="nlpapp worker", daemon=True
        )
        self.process.start()
        # The worker alone holds its end, so that its death is the end of the pipe.
        other.close()
        self.job: tuple[Work, Any] | None = None
        self.index: int | None = None
        self.task: Any = None

    @property
    def is_busy(self) -> bool:
        return self.index is not None

    def prepare(self, work: Work) -> None:
        """Have the module of ``work`` imported: receiving the function does it."""
        if not self.is_busy:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.connection.send((work, None))
                self.job = None

    def give(self, job: tuple[Work, Any], index: int, task: Any) -> None:
        """Send a task, and before the first of a run what is common to all of them."""
        self.index, self.task = index, task
        # If it is gone, that shows when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.job is not job:
                self.connection.send(job)
                self.job = job
            self.connection.send((index, task))

    def loss(self, number_of_tasks: int) -> DataError:
        """Return the error of a worker that ended in the middle of a task."""
        self.process.join(timeout=5)
        code = self.process.exitcode
        if code is not None and code < 0:
            how = f"was killed ({signal.Signals(-code).name})"
            if -code == signal.SIGKILL:
                how = "was killed (SIGKILL; the memory of the machine is likely used up)"
        else:
            how = f"ended with exit code {code}"
        return lost_worker(how, f"{self.index} of {number_of_tasks}", self.task)


def lost_worker(how: str, which: str, task: Any) -> DataError:
    """Return the error for a task whose worker is gone."""
    return DataError(
        f"A worker {how} while on task {which}: {reprlib.repr(task)}. What was finished before is "
        "kept: run the same command again, with fewer workers if memory was short."
    )


def _hand_out(
    workers: list[_Worker], job: tuple[Work, Any], waiting: Iterator[tuple[int, Any]]
) -> None:
    """Give each free worker a task."""
    for worker in workers:
        if not worker.is_busy:
            following = next(waiting, None)
            if following is None:
                return
            worker.give(job, *following)


def _receive(
    worker: _Worker,
    number_of_tasks: int,
    finished: deque[tuple[int, Any]],
    on_progress: Report,
) -> Exception | None:
    """Take one message of a worker; returns the error if it is, or means, one."""
    try:
        what, *content = worker.connection.recv()
    except (EOFError, OSError):
        return worker.loss(number_of_tasks)
    if what == "progress":
        on_progress(*content)
    elif what == "log":
        logging.getLogger(content[0].name).handle(content[0])
    elif what == "result":
        assert worker.index is not None
        finished.append((worker.index, content[0]))
        worker.index = worker.task = None
    else:
        return content[0].exception(f"Task {worker.index} ({reprlib.repr(worker.task)})")
    return None


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Let processes start lightly and deaf to Ctrl-C, which the parent answers for all.

    A spawned process runs the program's main module again. For the command line that is an import
    of all its parts, for a script without a guard the whole script; no worker needs it.
    """
    # Started now because its start takes the block off again.
    multiprocessing.resource_tracker.ensure_running()
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    blocked = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocked else set()
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, log_level: int) -> None:
    """Work on what comes through the pipe until it is closed: the whole life of a worker."""
    os.environ.update(SINGLE_THREADED)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    root = logging.getLogger()
    root.addHandler(LogSender(send))
    root.setLevel(log_level)
    work: Work
    context: Any
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        except Exception:  # what was sent is of a module that cannot be imported here
            _send_failure(send)
            continue
        if callable(message[0]):
            work, context = message
            continue
        progress = _Progress(lambda size, tokens: send("progress", size, tokens))
        try:
            result = work(context, message[1], progress)
            progress.flush()
            send("result", result)
        except Exception:
            _send_failure(send)


def _send_failure(send: Callable[..., None]) -> None:
    # Without a parent there is nobody to tell, and this process is about to end.
    with contextlib.suppress(OSError):
        try:
            send("failure", Failure.current())
        except Exception:
            # Its class, or what it holds, cannot be sent.
            send("failure", Failure(None, traceback.format_exc()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Progress:
    """Adds up what a task reports, and passes it on a few times a second."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.size = self.tokens = 0
        self.due = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, size: int, tokens: int) -> None:
        self.size += size
        self.tokens += tokens
        if time.monotonic() >= self.due:
            self.flush()

    def flush(self) -> None:
        if self.size or self.tokens:
            self.report(self.size, self.tokens)
        self.size = self.tokens = 0
        self.due = time.monotonic() + PROGRESS_SECONDS


class LogSender(logging.handlers.QueueHandler):
    """Sends log records to the program itself, whose handlers know where to put them."""

    def __init__(self, send: Callable[[str, logging.LogRecord], object]) -> None:
        """Send each record as ``send("log", record)``."""
        super().__init__(queue=None)  # type: ignore[arg-type]
        self.send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one record; its text is formatted already."""
        self.send("log", record)
