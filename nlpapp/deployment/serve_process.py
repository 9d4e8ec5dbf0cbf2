"""The processes of a server: one per core, one socket, and a stop that answers what was taken.

On SIGTERM or SIGINT each process goes on for ``drain_seconds`` while /ready says 503 and every
answer closes its connection; then it takes no more, answers what it has, and ends.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import logging
import math
import multiprocessing
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client import multiprocess
from uvicorn.protocols.http.h11_impl import H11Protocol

from nlpapp.deployment.serve_limits import CROWDED, LimitsConfig
from nlpapp.deployment.serve_log import log_as_json, make_records_cheap
from nlpapp.deployment.serve_metrics import MULTIPROCESS_FOLDER
from nlpapp.errors import CheckpointError, ConfigError, NlpappError

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # httptools is the faster parser; h11 does the same
    HttpToolsProtocol = H11Protocol  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from nlpapp.deployment.serve_limits import Guard

SETTINGS = "NLPAPP_SERVE_SETTINGS"
API_KEY = "NLPAPP_API_KEY"
"""Variable of the key: it stands in no command line and in no file of the run."""
SO_ATTACH_FILTER = 26
"""The number that Linux gives it; Python has no name for it."""
LAST_SECONDS = 0.25
"""For connections that were taken last to send their request."""
CANNOT_START = 3
"""Exit code of a process whose models cannot be loaded."""
TOGETHER_SECONDS = 60.0
"""Processes that cannot start within this time of each other have a reason in common."""
HEAD_BYTES = 64 * 2**10
"""The most bytes of a request's head; h11 has the same limit itself."""
WRITE_BYTES = 4096
"""Bytes of answers that a connection keeps before its client is taken for one that reads slowly."""
STOPPING = (signal.SIGTERM, signal.SIGINT)
CORES_OF_A_PROCESS = 4

logger = logging.getLogger("nlpapp.serve")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What the processes of a server need to know."""

    models: list[str]
    precision: str = "fp32"
    workers: int = 1
    threads: int = 1
    """Batches that a process computes at the same time, a thread each."""
    drain_seconds: float = 1.0
    stop_seconds: float = 30.0
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "drain_seconds", "stop_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; use 0 or more.")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(workers: int, threads: int) -> tuple[int, int]:
    """Return how many processes serve, and how many batches each computes at a time.

    A process that computes several batches side by side has a longer queue to choose rows of like
    length from, and one copy of the weights: with two cores it answers a sixth more than two
    processes do (docs/measurements.md). Its one event loop is busy at some four cores. One batch
    more than it has cores is read and formed while the others compute, so that no core waits.

    Args:
        workers: processes; 0: one for each `CORES_OF_A_PROCESS` cores.
        threads: batches at a time; 0: the cores divided by the processes, and one.
    """
    cores = available_cores()
    workers = workers or max(1, cores // CORES_OF_A_PROCESS)
    return workers, threads or max(1, cores // workers) + 1


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error}); another program may be there. "
            "Choose another --port or --host."
        ) from error
    found.listen(2048)
    found.set_inheritable(True)
    return found


def app_from_environment() -> "Guard":
    """Return the application that the variable of the settings describes; each process calls it."""
    from nlpapp.deployment.serve import build_app
    from nlpapp.deployment.serve_models import open_models

    settings = json.loads(os.environ[SETTINGS])
    log_as_json()
    # A batch is read and computed by one thread; several at once do more than one batch of several
    # threads, which wait for each other.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    models = open_models(settings["models"], precision=settings["precision"], threads=1)
    return build_app(
        models,
        limits=LimitsConfig(**settings["limits"]),
        key=os.environ.get(API_KEY),
        threads=settings["threads"],
    )


def take_no_more(listening: socket.socket) -> None:
    """Let the kernel take no new connection, while those that it has taken can be accepted.

    To close the socket would reset connections that wait to be accepted, with their requests. Here
    a filter drops each packet that opens a connection (SYN without ACK, in byte 13 of TCP's head);
    its sender tries again and finds the port closed, or another server. Systems without such
    filters get a queue without room, in which one connection may still be lost.
    """
    steps = (
        *((0x30, 0, 0, 13), (0x54, 0, 0, 0x02)),  # load the flags, keep SYN
        *((0x15, 0, 1, 0), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)),  # 0: pass; else drop
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HP", len(steps), ctypes.addressof(code))
    with contextlib.suppress(OSError):
        if sys.platform == "linux":
            listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    with contextlib.suppress(OSError):
        listening.listen(0)


class PatientProtocol(HttpToolsProtocol):
    """HTTP that ends connections whose client does not finish a head, or does not read its answers.

    uvicorn alone limits only the time between requests, so clients that send or read a byte now and
    then would hold their connections for ever, and a head without end would fill the memory.
    """

    read_seconds = 10.0
    max_connections = 2048
    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _unparsed = 0
    """Bytes since the last whole head and the last part of a body: those of a head."""

    def connection_made(self, transport: Any) -> None:
        """Begin the time of the first head."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BYTES)
        if len(self.connections) > self.max_connections:
            self.app_state = {**self.app_state, CROWDED: True}
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Begin the time of a head with its first byte, and end it with its last."""
        before = self.cycle
        self._unparsed += len(data)
        super().data_received(data)
        if self.cycle is not before:
            self._unparsed = 0
            self._end()
        elif self._timer is None and (before is None or before.response_complete):
            self._begin()
        if self._unparsed > HEAD_BYTES and HttpToolsProtocol is not H11Protocol:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, which is no part of a head."""
        self._unparsed = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        """Begin the time in which the client must read."""
        super().pause_writing()
        self._writing = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """End the time in which the client must read."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the times."""
        self._end()
        self.resume_writing()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._timer = self.loop.call_later(self.read_seconds, self._close)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """A uvicorn server that announces its end before it stops to listen."""

    drain_seconds = 1.0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Announce the end, go on for a while, then stop as uvicorn does."""
        guard = self.config.loaded_app
        service = getattr(getattr(guard, "app", None), "state", None)
        if service is not None and not self.force_exit:
            logger.info("draining")
            guard.draining = service.service.draining = True
            await asyncio.sleep(self.drain_seconds)
            # What the kernel has taken must be answered too: no more comes, then a last look.
            for listening in sockets or ():
                take_no_more(listening)
            await asyncio.sleep(LAST_SECONDS)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Also stop when the server that this process is one of is gone."""
        parent = multiprocessing.parent_process()  # None: a shell started it, and may go
        orphan = parent is not None and os.getppid() != parent.pid
        return await super().on_tick(counter) or orphan


def make_server(config: uvicorn.Config) -> DrainingServer:
    """Return the server of ``config``, with the times of the settings."""
    settings = json.loads(os.environ[SETTINGS])
    PatientProtocol.read_seconds = settings["limits"]["read_seconds"]
    PatientProtocol.max_connections = settings["limits"]["max_connections"]
    server = DrainingServer(config)
    server.drain_seconds = settings["drain_seconds"]
    return server


def make_config(settings: ServerSettings) -> uvicorn.Config:
    """Return how uvicorn is to run the application of ``settings``."""
    return uvicorn.Config(
        "nlpapp.deployment.serve_process:app_from_environment",
        factory=True,
        workers=settings.workers,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.stop_seconds),
        timeout_worker_healthcheck=30,
    )


@contextlib.contextmanager
def environment(settings: ServerSettings) -> Iterator[None]:
    """Tell the processes the settings, and where they put their figures together."""
    with tempfile.TemporaryDirectory(prefix="nlpapp-metrics-") as folder:
        before = dict(os.environ)
        os.environ[SETTINGS] = json.dumps(dataclasses.asdict(settings))
        os.environ[MULTIPROCESS_FOLDER] = folder
        if settings.workers == 1:
            os.environ.pop(MULTIPROCESS_FOLDER)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def serve(settings: ServerSettings, listening: socket.socket) -> None:
    """Answer requests on ``listening`` until SIGTERM or SIGINT.

    Raises:
        CheckpointError: the processes end as soon as they start.
    """
    log_as_json()
    with environment(settings):
        if settings.workers > 1:
            _supervise(settings, listening)
        else:
            _work(settings, listening)


def _work(settings: ServerSettings, listening: socket.socket) -> None:
    make_records_cheap()
    # uvicorn raises the signal again when it has stopped; by then there is nothing left to do.
    for number in STOPPING:
        signal.signal(number, lambda *_: None)
    server = make_server(make_config(settings))
    server.run(sockets=[listening])
    if not server.started:
        raise CheckpointError("the server cannot start; its log has the reason.")


def _work_in_child(settings: ServerSettings, listening: socket.socket) -> None:
    log_as_json()
    try:
        _work(settings, listening)
    except NlpappError as error:
        logger.error("cannot start", extra={"fields": {"error": str(error)}})
        sys.exit(CANNOT_START)


def fail_together(failures: deque[float]) -> bool:
    """Return whether as many processes as ``failures`` has room for failed at about one time.

    Args:
        failures: the seconds at which processes could not start, the latest last.
    """
    return len(failures) == failures.maxlen and failures[-1] - failures[0] < TOGETHER_SECONDS


def _supervise(settings: ServerSettings, listening: socket.socket) -> None:
    """Keep ``settings.workers`` processes running until a signal; then see them end."""
    stop = threading.Event()
    for number in STOPPING:
        signal.signal(number, lambda *_: stop.set())
    context = multiprocessing.get_context("spawn")

    def start() -> Any:
        process = context.Process(target=_work_in_child, args=(settings, listening))
        process.start()
        return process

    processes = [start() for _ in range(settings.workers)]
    failures: deque[float] = deque(maxlen=settings.workers)
    while not stop.wait(0.2) and not fail_together(failures):
        for index, process in enumerate(processes):
            if process.exitcode is None:
                continue
            fields = {"pid": process.pid, "exitcode": process.exitcode}
            logger.error("process died", extra={"fields": fields})
            multiprocess.mark_process_dead(process.pid)
            # Those that cannot start would fail again; those that were killed would not.
            if process.exitcode == CANNOT_START:
                failures.append(time.monotonic())
            processes[index] = start()
    # The processes have the socket; a copy here would take connections that nobody answers.
    listening.close()
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(settings.drain_seconds + settings.stop_seconds + 5)
        if process.exitcode is None:
            process.kill()
    if fail_together(failures):
        raise CheckpointError("the server's processes cannot start; their log has the reason.")


class BackgroundServer:
    """A server in a thread of this process, for checks and tests."""

    def __init__(self, settings: ServerSettings) -> None:
        """Make a server of one process on a free port of the loopback interface."""
        self.settings = dataclasses.replace(settings, workers=1)
        self._listening = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._server: DrainingServer | None = None
        self._thread: threading.Thread | None = None
        self._environment = environment(self.settings)

    def __enter__(self) -> "BackgroundServer":
        self._environment.__enter__()
        self._server = make_server(make_config(self.settings))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listening]}, daemon=True
        )
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            self._thread.join(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None and self._thread is not None
        self._server.should_exit = True
        self._thread.join()
        self._environment.__exit__(None, None, None)
