import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.parse
from collections import deque

import psutil
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from nlpapp.deployment import serve_process
from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.serve_limits import LimitsConfig
from nlpapp.deployment.serve_process import (
    BackgroundServer,
    DrainingServer,
    ServerSettings,
    bind,
    fail_together,
    make_config,
    take_no_more,
)
from nlpapp.errors import ConfigError
from tests.deployment.models import build_model, load_tokenizer
from tests.deployment.served import ask

BODY = json.dumps({"texts": ["the cat sat"]}).encode()


@pytest.fixture(scope="module")
def bundle(tiny_tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "bilstm"
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    export_classifier(build_model("bilstm"), tokenizer, folder, max_seq_length=16, batches=2)
    return folder


@contextlib.contextmanager
def started(bundle, *, workers, log, drain="0.5"):
    """Yield (url, process) of a server in processes of its own."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nlpapp.deployment.serve_command", str(bundle)]
    command += ["--port", str(port), "--workers", str(workers), "--drain-seconds", drain]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                if ask(url, "/ready")[0] == 200:
                    break
            assert time.monotonic() < end
            time.sleep(0.05)
        yield url, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


class Load:
    """Clients that each keep a connection, ask again and again, and count what happens."""

    def __init__(self, url, clients):
        self.address = urllib.parse.urlsplit(url)
        self.answered, self.lost, self.refused = [], [], []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _client(self):
        while not self.stop.is_set():
            connection = http.client.HTTPConnection(
                self.address.hostname, self.address.port, timeout=20
            )
            try:
                connection.connect()
            except OSError:
                self.refused.append(1)
                return
            self._ask_on(connection)

    def _ask_on(self, connection):
        with contextlib.closing(connection):
            while not self.stop.is_set():
                try:
                    connection.request("POST", "/predict", BODY)
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException) as error:
                    self.lost.append(error)
                    return
                self.answered.append(answer.status)
                if answer.will_close:
                    return

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_under_load_loses_no_request(bundle, tmp_path, workers):
    log = tmp_path / "log"
    with started(bundle, workers=workers, log=log) as (url, process):
        load = Load(url, 12)
        time.sleep(0.7)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        load.end()
    assert len(load.answered) > 50
    assert set(load.answered) == {200}
    assert not load.lost
    assert load.refused  # clients went on after the end
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["event"] == "draining" for line in lines) == workers
    assert "the cat sat" not in log.read_text()


def test_processes_share_the_figures_and_dead_ones_are_replaced(bundle, tmp_path):
    with started(bundle, workers=2, log=tmp_path / "log", drain="0") as (url, process):
        for _ in range(20):
            assert ask(url, "/predict", BODY)[0] == 200
        count = 'nlpapp_requests_total{path="/predict",status="200"}'
        figures = dict(line.rsplit(" ", 1) for line in ask(url, "/metrics")[2].splitlines())
        assert float(figures[count]) == 20
        children = psutil.Process(process.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        workers[0].kill()
        end = time.monotonic() + 30
        while "process died" not in (tmp_path / "log").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert ask(url, "/predict", BODY)[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_processes_that_cannot_start_end_the_server(bundle, tmp_path):
    program = (
        "import sys; from nlpapp.deployment import serve_command as c;"
        "c.open_models = lambda *_, **__: None; sys.exit(c.main(sys.argv[1:]))"
    )
    for workers in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), "--port", "0", "--workers", workers],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 1
        assert "is not a bundle" in result.stderr


@pytest.fixture(scope="module")
def impatient_server(bundle):
    limits = LimitsConfig(read_seconds=0.3)
    settings = ServerSettings(models=[str(bundle)], limits=limits, drain_seconds=0.0)
    with BackgroundServer(settings) as server:
        yield server


@pytest.fixture
def impatient(impatient_server):
    return impatient_server.url


def connect(url):
    address = urllib.parse.urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def read_all(connection):
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            parts.append(part)
    return b"".join(parts)


HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@pytest.mark.parametrize("sent", [b"", b"POST /pre", HEAD[:-2]])
def test_a_head_that_does_not_end_closes_the_connection(impatient, sent):
    with connect(impatient) as connection:
        connection.sendall(sent)
        assert read_all(connection) == b""
    assert ask(impatient, "/ready")[0] == 200


def test_a_second_head_that_does_not_end_closes_the_connection(impatient):
    with connect(impatient) as connection:
        connection.sendall(HEAD + BODY)
        answer = connection.recv(4096)
        connection.sendall(b"GET /hea")
        answer += read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200") and answer.count(b"HTTP/1.1") == 1


def test_a_slow_body_is_answered_408(impatient):
    with connect(impatient) as connection:
        connection.sendall(HEAD + BODY[:5])
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer


def test_a_body_that_is_too_large_is_answered_though_it_is_still_sent(impatient):
    size = LimitsConfig().max_body_bytes * 2
    with connect(impatient) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        )
        connection.sendall(b"x" * size)
        assert read_all(connection).startswith(b"HTTP/1.1 413")


def test_closed_connections_leave_the_server_as_it_was(impatient):
    for sent in (HEAD + BODY, HEAD + BODY[:5], HEAD[:9], b"\x00\xff\r\n\r\n"):
        for _ in range(5):
            with connect(impatient) as connection:
                connection.sendall(sent)
    assert ask(impatient, "/predict", BODY)[0] == 200


def test_a_client_that_reads_no_answer_is_left(impatient_server):
    connections = impatient_server._server.server_state.connections
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = urllib.parse.urlsplit(impatient_server.url)
        client.connect((address.hostname, address.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 600)  # 6 MB of answers
        end = time.monotonic() + 30
        while not any(connection.flow.write_paused for connection in list(connections)):
            assert time.monotonic() < end
            time.sleep(0.01)
        while connections:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert ask(impatient_server.url, "/ready")[0] == 200


@pytest.fixture(scope="module")
def small(bundle):
    """A server that has a key and takes two connections."""
    limits = LimitsConfig(max_connections=2)
    settings = ServerSettings(models=[str(bundle)], limits=limits, drain_seconds=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(serve_process.API_KEY, "correct horse")
        with BackgroundServer(settings) as server:
            yield server.url


LONG = b"GET /health HTTP/1.1\r\nHost: a\r\nx: %s\r\n\r\n" % (b"y" * 30_000)


@pytest.mark.parametrize("before", [b"", LONG])
def test_a_head_without_end_closes_the_connection(small, before):
    with connect(small) as connection:
        connection.sendall(before + b"GET /health HTTP/1.1\r\nHost: a\r\nx: ")
        with pytest.raises(OSError):
            for _ in range(2000):
                connection.sendall(b"y" * 2**14)


def test_heads_that_fit_are_answered_however_many_there_are(small):
    with connect(small) as connection:
        for _ in range(5):
            connection.sendall(LONG[:20_000])
            time.sleep(0.01)  # in two parts
            connection.sendall(LONG[20_000:])
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_limit_are_answered_503_but_not_to_probes(small):
    key = {"x-api-key": "correct horse"}
    with connect(small) as first, connect(small):
        status, headers, content = ask(small, "/predict", BODY, headers=key)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert content == {"error": "2 connections are open, as many as may be."}
        assert ask(small, "/health")[0] == ask(small, "/ready")[0] == 200
        first.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_key_in_the_environment_is_asked_for(small):
    for headers in ({}, {"x-api-key": "wrong horse"}):
        status, found, _ = ask(small, "/predict", BODY, headers=headers)
        assert (status, found["www-authenticate"]) == (401, "Bearer")
    assert ask(small, "/predict", BODY, headers={"x-api-key": "correct horse"})[0] == 200


@pytest.mark.parametrize(("parent", "ends"), [(None, False), (1, True), (77, False)])
def test_a_process_ends_with_the_server_it_is_part_of(monkeypatch, parent, ends):
    server = DrainingServer(make_config(ServerSettings(models=["a"])))
    found = None if parent is None else types.SimpleNamespace(pid=parent)
    monkeypatch.setattr(serve_process.multiprocessing, "parent_process", lambda: found)
    monkeypatch.setattr(serve_process.os, "getppid", lambda: 77)  # not who started it
    assert asyncio.run(server.on_tick(1)) is ends


def test_half_a_second_to_stop_is_not_none():
    assert make_config(ServerSettings(models=["a"], stop_seconds=0.5)).timeout_graceful_shutdown
    with pytest.raises(ConfigError, match="stop_seconds is inf"):
        ServerSettings(models=["a"], stop_seconds=float("inf"))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([], False), ([0.0, 1.0], False), ([0.0, 1.0, 2.0], True), ([0.0, 1.0, 1e6], False)],
)
def test_failures_long_apart_are_not_one(seconds, expected):
    assert fail_together(deque(seconds, maxlen=3)) is expected


def test_a_taken_port_and_an_odd_host_are_named():
    with bind("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="Choose another --port"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"cannot listen on no\.such\.host\.invalid"):
        bind("no.such.host.invalid", 0)


def test_a_socket_that_takes_no_more_keeps_what_it_has():
    with bind("127.0.0.1", 0) as listening:
        address = listening.getsockname()
        with socket.create_connection(address, timeout=5) as first:
            first.sendall(b"question")
            take_no_more(listening)
            with socket.socket() as second:
                second.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    second.connect(address)
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(100) == b"question"
                first.sendall(b"more")
                assert accepted.recv(100) == b"more"


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "expected"),
    [
        (1, 0, 0, (1, 2)),
        (2, 0, 0, (1, 3)),
        (16, 0, 0, (4, 5)),
        (4, 4, 0, (4, 2)),
        (4, 0, 3, (1, 3)),
    ],
)
def test_cores_are_shared(monkeypatch, cores, workers, threads, expected):
    monkeypatch.setattr(serve_process, "available_cores", lambda: cores)
    assert serve_process.share_cores(workers, threads) == expected
