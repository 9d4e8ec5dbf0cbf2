"""Figures of a server for Prometheus; with several processes each scrape adds them all up."""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of the folder that the processes of one server share; set before this is imported."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        """Make the figures, in a registry of their own."""
        self._registry = own = CollectorRegistry()
        self.requests = Counter(
            "nlpapp_requests", "Requests by path and status.", ["path", "status"], registry=own
        )
        self.request_seconds = Histogram(
            "nlpapp_request_seconds",
            "Seconds from a request's head to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=own,
        )
        self.rows = Counter("nlpapp_rows", "Rows computed.", ["model"], registry=own)
        self.batch_rows = Histogram(
            "nlpapp_batch_rows", "Rows of a batch.", ["model"], buckets=ROWS, registry=own
        )
        self.queue_seconds = Histogram(
            "nlpapp_queue_seconds",
            "Seconds that the oldest row of a batch waited.",
            ["model"],
            buckets=SECONDS,
            registry=own,
        )
        self.queue_rows = Gauge(
            "nlpapp_queue_rows",
            "Rows that waited when the last batch began.",
            ["model"],
            registry=own,
            multiprocess_mode="livesum",
        )
        self._asked: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        if (path, status) not in self._asked:  # to find them by their labels takes longer
            count = self.requests.labels(path, str(status))
            self._asked[path, status] = count, self.request_seconds.labels(path)
        count, timing = self._asked[path, status]
        count.inc()
        timing.observe(seconds)

    def batch(self, model: str, rows: int, seconds: float, queued: int) -> None:
        """Count a batch of ``rows``, whose oldest waited ``seconds``; ``queued`` still wait."""
        self.rows.labels(model).inc(rows)
        self.batch_rows.labels(model).observe(rows)
        self.queue_seconds.labels(model).observe(seconds)
        self.queue_rows.labels(model).set(queued)

    def page(self) -> tuple[bytes, str]:
        """Return the text that Prometheus reads, and its content type."""
        registry = self._registry
        if os.environ.get(MULTIPROCESS_FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
