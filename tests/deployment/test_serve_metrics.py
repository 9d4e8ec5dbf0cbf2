import json
import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from nlpapp.deployment.serve_metrics import Metrics


def samples(page):
    """Return {(name, labels): value} as Prometheus' own reader sees the page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_requests_and_batches_are_counted():
    metrics = Metrics()
    metrics.request("/predict", 200, 0.02)
    metrics.request("/predict", 200, 0.2)
    metrics.request("/predict", 429, 0.001)
    metrics.batch("small", 5, 0.03, 7)
    page, kind = metrics.page()
    found = samples(page)
    assert kind.startswith("text/plain")
    predict = ("path", "/predict")
    assert found["nlpapp_requests_total", (predict, ("status", "200"))] == 2
    assert found["nlpapp_requests_total", (predict, ("status", "429"))] == 1
    assert found["nlpapp_request_seconds_bucket", (("le", "0.025"), predict)] == 2
    assert found["nlpapp_request_seconds_count", (predict,)] == 3
    small = (("model", "small"),)
    assert found["nlpapp_rows_total", small] == 5
    assert found["nlpapp_queue_rows", small] == 7
    assert found["nlpapp_queue_seconds_sum", small] == pytest.approx(0.03)


def test_two_servers_of_one_process_count_apart():
    first, second = Metrics(), Metrics()
    first.request("/predict", 200, 0.1)
    assert not [key for key in samples(second.page()[0]) if key[0] == "nlpapp_requests_total"]


def test_the_processes_of_a_server_are_added_up(tmp_path):
    program = """
        import json, sys
        from nlpapp.deployment.serve_metrics import Metrics
        metrics = Metrics()
        metrics.request("/predict", 200, 0.1)
        metrics.batch("small", 4, 0.01, 3)
        print(json.dumps(metrics.page()[0].decode()))
    """
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
    found = samples(json.loads(result.stdout).encode())
    labels = (("path", "/predict"), ("status", "200"))
    assert found["nlpapp_requests_total", labels] == 3
    assert found["nlpapp_rows_total", (("model", "small"),)] == 12
