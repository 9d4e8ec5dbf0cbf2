import asyncio
import json
import logging

import pytest

from nlpapp.deployment.serve_limits import CROWDED, Guard, Key, LimitsConfig, if_there, refuse
from nlpapp.deployment.serve_log import JsonLines
from nlpapp.errors import ConfigError

SECRET = "a very private text"


async def echo(scope, receive, send):
    """Answer with the number of bytes of the body."""
    message = await receive()
    body = b"%d" % len(message.get("body", b""))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def fail(scope, receive, send):
    raise ValueError(SECRET)


def ask(
    app,
    parts=(b"",),
    *,
    path="/predict",
    headers=(),
    limits=None,
    method="POST",
    state=(),
    **options,
):
    """Return (status, headers, body) of a request whose body comes in ``parts``."""
    guard = Guard(app, limits=limits or LimitsConfig(), paths=("/predict",), **options)
    guard.draining = ask.draining
    sent = []
    waiting = list(parts)

    async def receive():
        part = waiting.pop(0)
        if part is None:
            await asyncio.sleep(10)
        if part == "gone":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    scope["state"] = dict(state)
    asyncio.run(guard(scope, receive, send))
    if not sent:
        return None
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


ask.draining = False


def test_a_body_in_parts_arrives_whole():
    status, headers, body = ask(echo, [b"abc", b"de", b"f"])
    assert (status, body) == (200, b"6")
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 413)])
def test_the_body_has_a_largest_size_whatever_its_parts(size, status):
    limits = LimitsConfig(max_body_bytes=100)
    found, headers, body = ask(echo, [b"x" * (size - 1), b"x"], limits=limits)
    assert found == status
    if status == 413:
        assert b"larger than 100 bytes" in body
        assert headers[b"connection"] == b"close"


def test_a_slow_body_ends_in_408():
    status, _, body = ask(echo, [b"a", None, b"b"], limits=LimitsConfig(read_seconds=0.05))
    assert status == 408
    assert b"did not arrive within 0.05 s" in body


@pytest.mark.parametrize("waits", [False, True])
def test_a_message_is_taken_if_it_is_there_and_not_waited_for(waits):
    left = []

    async def receive():
        try:
            if waits:
                await asyncio.Event().wait()
        finally:
            left.append(True)
        return {"type": "http.request"}

    async def whole():
        return if_there(receive)

    assert asyncio.run(whole()) == (None if waits else {"type": "http.request"})
    assert left == [True]


def test_a_client_that_leaves_gets_no_answer():
    assert ask(echo, [b"a", "gone"]) is None


KEY = Key("correct horse")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([(b"x-api-key", b"wrong horse")], 401),
        ([(b"x-api-key", b"")], 401),
        ([(b"x-api-key", b"correct horse\xff")], 401),
        ([(b"authorization", b"Basic correct horse")], 401),
        ([(b"x-api-key", b"correct horse")], 200),
        ([(b"authorization", b"Bearer correct horse")], 200),
    ],
)
def test_the_key_is_asked_for(headers, status):
    assert ask(echo, headers=headers, key=KEY)[0] == status


def test_probes_and_the_page_need_no_key():
    assert ask(echo, path="/health", method="GET", key=KEY)[0] == 200
    assert ask(echo, path="/models", method="GET", key=KEY)[0] == 401


def test_connections_beyond_the_limit_are_for_probes_alone():
    options = {"state": {CROWDED: True}, "limits": LimitsConfig(max_connections=5)}
    status, headers, body = ask(echo, **options)
    assert status == 503 and "5 connections are open" in json.loads(body)["error"]
    assert (headers[b"retry-after"], headers[b"connection"]) == (b"1", b"close")
    assert ask(echo, path="/models", method="GET", **options)[0] == 503
    for path in ("/health", "/ready"):
        assert ask(echo, path=path, method="GET", **options)[0] == 200


def test_short_keys_are_refused():
    with pytest.raises(ConfigError, match="has 7 characters; give 8"):
        Key("1234567")


def test_limits_of_zero_are_refused():
    with pytest.raises(ConfigError, match="limits.max_rows is 0"):
        LimitsConfig(max_rows=0)
    assert LimitsConfig(max_wait_ms=0).max_wait_ms == 0


@pytest.fixture
def lines():
    """Collects the lines that the server writes."""
    found = []

    class Collector(logging.Handler):
        def emit(self, record):
            found.append(JsonLines().format(record))

    collector = Collector()
    log = logging.getLogger("nlpapp.serve")
    log.addHandler(collector)
    level = log.level
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(collector)
    log.setLevel(level)


def test_the_log_is_json_without_texts(lines):
    ask(echo, [SECRET.encode()])
    ask(fail, [SECRET.encode()])
    ask(echo, path=f"/{SECRET}", headers=[(b"x-request-id", SECRET.encode())], method=SECRET)
    records = [json.loads(line) for line in lines]
    assert [record["status"] for record in records] == [200, 500, 200]
    assert [record["path"] for record in records] == ["/predict", "/predict", "other"]
    assert records[1]["level"] == "error"
    assert records[1]["error"].startswith("ValueError at ")
    assert not [line for line in lines if "private" in line]


def test_a_failing_application_answers_500_without_its_reason(lines):
    status, _, body = ask(fail)
    assert status == 500
    assert json.loads(body).keys() == {"error"}
    assert b"private" not in body


def test_the_request_id_of_a_proxy_is_kept():
    _, headers, _ = ask(echo, headers=[(b"x-request-id", b"abc-1")])
    assert headers[b"x-request-id"] == b"abc-1"
    _, headers, _ = ask(echo, headers=[(b"x-request-id", b"a b")])
    assert len(headers[b"x-request-id"]) == 32


def test_requests_are_observed_and_those_left_by_the_client_are_499():
    seen = []
    options = {"observe": lambda *entry: seen.append(entry[:2])}
    ask(echo, **options)
    ask(echo, ["gone"], **options)
    ask(echo, path="/../etc/passwd", **options)
    assert seen == [("/predict", 200), ("/predict", 499), ("other", 200)]


def test_a_draining_server_closes_connections(monkeypatch):
    assert b"connection" not in ask(echo)[1]
    monkeypatch.setattr(ask, "draining", True)
    assert ask(echo)[1][b"connection"] == b"close"


def test_refusals_are_json():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(refuse(send, 429, 'a "quote"', headers=[(b"retry-after", b"3")]))
    assert sent[0]["status"] == 429
    assert json.loads(sent[1]["body"]) == {"error": 'a "quote"'}
    assert dict(sent[0]["headers"])[b"retry-after"] == b"3"
