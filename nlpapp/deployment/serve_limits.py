"""What a server lets in: keys, body sizes, slow clients; and what it writes down about requests.

`Guard` wraps the application. It logs a line of JSON for each request, never a text of it.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from nlpapp.errors import ConfigError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger("nlpapp.serve")

OPEN_PATHS = ("/", "/health", "/ready", "/metrics", "/openapi.json")
"""Paths without texts, for probes, for Prometheus, and for the page; they need no key."""
PROBES = ("/health", "/ready")
CROWDED = "nlpapp.crowded"
"""Key in the state of all requests of a connection beyond `LimitsConfig.max_connections`."""
DISCARDED_BYTES = 16 * 2**20
"""How much of a body that is too large is read on, so that the client comes to read the answer."""
REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What one request may ask for, and how long it may take."""

    max_rows: int = 256
    """Texts of one request."""
    max_characters: int = 20_000
    """Characters of one text."""
    max_body_bytes: int = 2 * 2**20
    """Bytes of one request's body."""
    max_connections: int = 2048
    """Open connections of one process; beyond it /health and /ready are answered, all else 503."""
    max_batch_rows: int = 64
    """Rows that are computed together."""
    max_wait_ms: float = 2.0
    """Milliseconds that a batch waits for company after its first row and the last answers."""
    max_queue_rows: int = 1024
    """Rows that wait in one process for one model; requests beyond it are answered 429."""
    max_queue_seconds: float = 3.0
    """Seconds until the first row of a request is computed; else it is answered 503."""
    read_seconds: float = 10.0
    """Seconds that a client may take to send the head of a request, then its body, and to read what
    the connection cannot hold of the answer."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name != "max_wait_ms"):
                raise ConfigError(f"limits.{name} is {value}; use more than 0.")


class Key:
    """An API key that can be compared with, but not read from memory dumps or logs."""

    def __init__(self, key: str) -> None:
        """Keep the digest of ``key``, 8 characters or more.

        Raises:
            ConfigError: the key is too short.
        """
        if len(key) < 8:
            raise ConfigError(f"the API key has {len(key)} characters; give 8 or more.")
        self._digest = hashlib.sha256(key.encode()).digest()

    def fits(self, candidate: bytes) -> bool:
        """Return whether ``candidate`` is the key; takes as long for any candidate."""
        return hmac.compare_digest(hashlib.sha256(candidate).digest(), self._digest)


class Guard:
    """An ASGI application around another that refuses what is too large, slow, or without key."""

    def __init__(
        self,
        app: Application,
        *,
        limits: LimitsConfig,
        key: Key | None = None,
        paths: tuple[str, ...] = OPEN_PATHS,
        observe: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """Wrap ``app``.

        Args:
            app: the application.
            limits: sizes and times.
            key: asked for on all paths but `OPEN_PATHS`; None asks for none.
            paths: the paths that are logged by name; all others are 'other', for a path is text.
            observe: told (path, status, seconds) of every request.
        """
        self.app = app
        self.limits = limits
        self.key = key
        self.draining = False
        """While true every answer closes its connection, so that clients go elsewhere."""
        self._paths = paths
        self._observe = observe

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record: dict[str, Any] = {"status": 0, "id": _request_id(scope)}
        scope.setdefault("state", {})["record"] = record
        start = time.monotonic()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers(record["id"])]
            await send(message)

        try:
            await self._pass_on(scope, receive, answer)
        except Exception as error:
            # The words of the error may quote a text: its kind and place are enough to find it.
            place = traceback.extract_tb(error.__traceback__)[-1]
            record["error"] = f"{type(error).__name__} at {place.filename}:{place.lineno}"
            if not record["status"]:
                await refuse(answer, 500, "the server failed; the log has the reason.")
        finally:
            self._write_down(scope, record, time.monotonic() - start)

    async def _pass_on(
        self, scope: MutableMapping[str, Any], receive: Receive, answer: Send
    ) -> None:
        if CROWDED in scope["state"] and scope["path"] not in PROBES:
            message = f"{self.limits.max_connections} connections are open, as many as may be."
            way = [(b"retry-after", b"1"), (b"connection", b"close")]
            await refuse(answer, 503, message, headers=way)
            return
        if self.key is not None and scope["path"] not in OPEN_PATHS:
            found = _key_of(scope)
            if found is None or not self.key.fits(found):
                way = [(b"www-authenticate", b"Bearer")]
                message = "a valid key is needed in X-API-Key or Authorization: Bearer."
                await refuse(answer, 401, message, headers=way)
                return
        if scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, answer)
            return
        first = if_there(receive)
        reading = self._read(receive, first)
        try:
            if first is not None and not first.get("more_body"):
                body = await reading  # it does not wait, and a timer costs more than all else here
            else:
                body = await asyncio.wait_for(reading, self.limits.read_seconds)
        except asyncio.TimeoutError:
            message = f"the body did not arrive within {self.limits.read_seconds:g} s."
            await refuse(answer, 408, message, headers=[(b"connection", b"close")])
            return
        except ConnectionError:
            return
        if body is None:
            message = f"the body is larger than {self.limits.max_body_bytes} bytes."
            await refuse(answer, 413, message, headers=[(b"connection", b"close")])
            return
        await self.app(scope, _replay(body, receive), answer)

    async def _read(self, receive: Receive, message: Message | None) -> bytes | None:
        """Return the body, of which ``message`` is the first part, or None if it is too large."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = message or await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client went away")
            part = message.get("body", b"")
            size += len(part)
            if size <= self.limits.max_body_bytes:
                parts.append(part)
            else:
                parts.clear()
            if not message.get("more_body") or size > DISCARDED_BYTES:
                return b"".join(parts) if size <= self.limits.max_body_bytes else None
            message = None

    def _headers(self, request_id: str) -> list[tuple[bytes, bytes]]:
        closing = [(b"connection", b"close")] if self.draining else []
        return [
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            *closing,
        ]

    def _write_down(
        self, scope: MutableMapping[str, Any], record: dict[str, Any], seconds: float
    ) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        # 499: the client went away before there was an answer.
        status = record.pop("status") or 499
        if self._observe is not None:
            self._observe(path, status, seconds)
        level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
        if logger.isEnabledFor(level):
            fields = _line(scope, path, status, seconds, record)
            # Not logger.log: it looks for the line of code that calls it, which nobody reads.
            entry = {
                "name": logger.name,
                "levelno": level,
                "levelname": logging.getLevelName(level),
            }
            logger.handle(logging.makeLogRecord({**entry, "msg": "request", "fields": fields}))


def _line(
    scope: MutableMapping[str, Any],
    path: str,
    status: int,
    seconds: float,
    record: dict[str, Any],
) -> dict[str, Any]:
    method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
    timing = {"status": status, "milliseconds": round(1000 * seconds, 2)}
    return {"method": method, "path": path, **timing, **record}


def if_there(receive: Receive) -> Message | None:
    """Return the next message of a request if ``receive`` need not wait for it, else None."""
    coroutine: Any = receive()
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    return None


async def refuse(
    send: Send, status: int, message: str, *, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send an error as JSON: {"error": message}."""
    body = json.dumps({"error": message}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*start, *(headers or ())]}
    )
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: MutableMapping[str, Any]) -> str:
    """Return the id that a proxy gave the request if it is a plain one, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value.decode("latin-1")):
            return value.decode()
    return os.urandom(16).hex()


def _key_of(scope: MutableMapping[str, Any]) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return value
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return None


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
