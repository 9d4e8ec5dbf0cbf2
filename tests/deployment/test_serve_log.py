import json
import logging
import subprocess
import sys

import pytest

pytest.importorskip("pydantic_core")

from nlpapp.deployment.serve_log import JsonLines

PROGRAM = """
import logging
from nlpapp.deployment.serve_log import log_as_json, make_records_cheap
log_as_json()
make_records_cheap()
logging.getLogger("nlpapp.serve").info("request", extra={"fields": {"status": 200}})
logging.getLogger("uvicorn.error").warning("slow")
logging.getLogger("nlpapp.serve").debug("not shown")
"""


def test_a_line_is_a_json_object_of_time_level_event_and_fields():
    record = logging.makeLogRecord({"msg": "took %d", "args": (3,), "levelname": "WARNING"})
    record.created, record.msecs = 86_400.25, 250.0
    record.fields = {"status": 429, "milliseconds": 0.1, "place": "a\nb"}
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-02T00:00:00.250Z",
        "level": "warning",
        "event": "took 3",
        "status": 429,
        "milliseconds": 0.1,
        "place": "a\nb",
    }


def test_a_field_that_json_does_not_know_is_written_as_text():
    record = logging.makeLogRecord({"msg": "died", "fields": {"error": ValueError("no")}})
    assert json.loads(JsonLines().format(record))["error"] == "no"


def test_the_server_and_uvicorn_write_lines_to_standard_error():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    lines = [json.loads(line) for line in found.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["request", "slow"]
    assert lines[0]["status"] == 200
