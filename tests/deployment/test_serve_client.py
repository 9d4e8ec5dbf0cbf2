import http.server
import json
import threading
import time
from pathlib import Path

import pytest

from nlpapp.deployment import serve_client
from nlpapp.deployment.serve_client import Client


class Scripted(http.server.BaseHTTPRequestHandler):
    """Gives the answers of its server's list in turn, and keeps what was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, dict(self.headers), json.loads(body)))
        status, headers, content = self.server.script.pop(0)
        if status == "hang":
            time.sleep(content)
            status, content = 200, {}
        data = json.dumps(content).encode()
        if status == "garbage":
            self.wfile.write(b"garbage\r\n\r\n")
            self.close_connection = True
            return
        missing = 9 if status == "short" else 0
        if status == "short":
            status, self.close_connection = 200, True
        if status == "cut":
            status, data = 200, data[:-3]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data) + missing))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    found.asked, found.script = [], []
    found.url = f"http://127.0.0.1:{found.server_address[1]}"
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


GOOD = (200, {}, {"predictions": [{"label": "good"}]})


def test_answers_come_back_and_the_key_goes_along(server):
    server.script = [GOOD, (200, {}, {"embeddings": [[1.0, 2.0]]})]
    client = Client(server.url + "/", key="correct horse")
    assert client.predict(["a"], model="small") == [{"label": "good"}]
    assert client.embed(["a"], pooling="cls", layer=2) == [[1.0, 2.0]]
    (path, headers, body), (_, _, embedded) = server.asked
    assert (path, body) == ("/predict", {"texts": ["a"], "model": "small"})
    assert embedded == {"texts": ["a"], "pooling": "cls", "layer": 2}
    assert {name.lower(): value for name, value in headers.items()}["x-api-key"] == "correct horse"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_full_server_is_asked_again_after_retry_after(server, status, monkeypatch):
    waits = []
    monkeypatch.setattr(serve_client.time, "sleep", waits.append)
    server.script = [(status, {"retry-after": "2"}, {}), (status, {}, {}), GOOD]
    assert Client(server.url).predict(["a"]) == [{"label": "good"}]
    assert waits == [2.0, 0.2]


@pytest.mark.parametrize("after", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "", "nan"])
def test_a_retry_after_that_is_no_number_of_seconds_is_not_heeded(server, after, monkeypatch):
    waits = []
    monkeypatch.setattr(serve_client.time, "sleep", waits.append)
    server.script = [(503, {"retry-after": after}, {}), GOOD]
    assert Client(server.url).predict(["a"]) == [{"label": "good"}]
    assert waits == [0.1]


def test_refusals_are_not_asked_again(server):
    server.script = [(422, {}, {"error": "texts.0: empty"})]
    with pytest.raises(ValueError, match=r"422 .*texts\.0: empty"):
        Client(server.url).predict([""])
    assert len(server.asked) == 1


def test_broken_and_late_answers_are_asked_again(server):
    server.script = [("cut", {}, {"a": 1}), ("hang", {}, 0.6), GOOD]
    assert Client(server.url, timeout=0.2).predict(["a"]) == [{"label": "good"}]
    assert len(server.asked) == 3
    server.script = [("short", {}, {"a": 1}), ("garbage", {}, {}), GOOD]
    assert Client(server.url).predict(["a"]) == [{"label": "good"}]
    assert len(server.asked) == 6


def test_there_is_a_deadline(server):
    server.script = [(503, {}, {})] * 50
    with pytest.raises(ConnectionError, match="no answer"):
        Client(server.url, deadline=0.5).predict(["a"])
    server.script = [(429, {"retry-after": "60"}, {})]
    asked = len(server.asked)
    with pytest.raises(ConnectionError, match="429"):
        Client(server.url, deadline=5).predict(["a"])
    assert len(server.asked) == asked + 1  # no use in waiting for longer than there is time
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError):
        Client(server.url, deadline=0.3).predict(["a"])


def test_the_client_is_short_and_needs_nothing():
    source = Path(serve_client.__file__).read_text()
    assert len(source.splitlines()) <= 50
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "nlpapp" in line]
