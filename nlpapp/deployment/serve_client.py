"""A client of `nlpapp serve` in the standard library alone; copy this file where it is needed."""

import http.client
import json
import time
import urllib.request
from typing import Any


class Client:
    """Asks one server; may be used from many threads at once."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout: float = 10.0, deadline: float = 30.0
    ) -> None:
        """Ask ``url``: ``timeout`` seconds for one try, ``deadline`` for all tries of a call."""
        self.url, self.timeout, self.deadline = url.rstrip("/"), timeout, deadline
        self.headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})

    def predict(self, texts: list[str], **options: Any) -> list[dict[str, Any]]:
        """Return a prediction a text; options: pairs, model."""
        return self.call("/predict", {"texts": texts, **options})["predictions"]

    def embed(self, texts: list[str], **options: Any) -> list[list[float]]:
        """Return a vector a text; options: pairs, model, pooling, layer."""
        return self.call("/embed", {"texts": texts, **options})["embeddings"]

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer; a full, stopping or unreachable server is asked again.

        Raises ValueError if the server refuses the request, and ConnectionError at the deadline.
        """
        end, pause = time.monotonic() + self.deadline, 0.1
        data = None if body is None else json.dumps(body).encode()
        while True:
            request = urllib.request.Request(self.url + path, data, self.headers)
            left = end - time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=min(self.timeout, left)) as answer:
                    return json.load(answer)
            except urllib.request.HTTPError as error:
                if error.code not in (429, 502, 503, 504):
                    raise ValueError(f"{path}: {error.code} {error.read().decode()}") from error
                after, reason = error.headers.get("retry-after", ""), error
            except (OSError, ValueError, http.client.HTTPException) as error:
                after, reason = "", error  # type: ignore[assignment]
            wait, pause = float(after) if after.isdecimal() else pause, min(2 * pause, 5)
            if time.monotonic() + wait >= end:
                raise ConnectionError(f"{self.url}{path}: no answer ({reason})") from reason
            time.sleep(wait)
