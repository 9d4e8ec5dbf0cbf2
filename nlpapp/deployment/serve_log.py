"""What a server writes about itself and its requests: one JSON object a line, on standard error."""

import functools
import logging
import time

from pydantic_core import to_json

LOGS = ("nlpapp.serve", "uvicorn")


class JsonLines(logging.Formatter):
    """Formats log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``; its `fields` stand beside time, level and event."""
        line = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return to_json(line, fallback=str).decode()


def log_as_json() -> None:
    """Write the server's log, and uvicorn's, as JSON lines to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in LOGS:
        log = logging.getLogger(name)
        log.handlers = [handler]
        log.propagate = False
        log.setLevel(logging.INFO)


def make_records_cheap() -> None:
    """Let no log record of this process find out its thread, process and tasks.

    No line of a server names them, and they are half the time of a line.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Return the date and time of a second; a busy server writes many lines in each."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
