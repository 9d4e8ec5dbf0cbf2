"""A model in a process of its own: what it answers, what is its own, and how it fails."""

import sys

import numpy as np
import pytest

from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.model_process import ModelProcess
from nlpapp.deployment.runtime import Predictor
from nlpapp.errors import CheckpointError
from tests.deployment.models import build_model, load_tokenizer

TEXTS = ["a good film", "the cat sat on the mat .", "bad", *["a dog"] * 40]


def program(code):
    return [sys.executable, "-c", "import json, os, sys\n" + code]


ECHO = """
print(json.dumps({"load_ms": 1, "peak_bytes": 7, "env": dict(os.environ), "was": sys.argv[1]}))
for line in iter(sys.stdin.readline, ""):
    found = json.loads(line)
    print(json.dumps({"seconds": [len(b["texts"]) for b in found["time"]], "peak_bytes": 9}))
    sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def bundle(tiny_tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "b"
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    export_classifier(build_model("bilstm"), tokenizer, folder, max_seq_length=12)
    return folder


def test_a_bundle_answers_as_the_predictor_does(bundle):
    specification = {"folder": str(bundle), "precision": "fp32", "threads": 1}
    with ModelProcess(specification, name="b") as process:
        assert process.start_ms > process.facts["load_ms"] > 0
        found = process.predict(TEXTS)
        times = process.time([{"texts": TEXTS[:2], "pairs": None}, {"texts": TEXTS[:1]}])
        peak = process.peak_bytes
    expected = Predictor(bundle).predict(TEXTS)
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    values = [[list(row["probabilities"].values()) for row in rows] for rows in (found, expected)]
    np.testing.assert_allclose(*values, atol=1e-6)
    assert len(times) == 2 and min(times) > 0
    assert 10e6 < peak < 400e6


def test_a_process_has_its_threads_and_closes_twice(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    with ModelProcess({"a": 1}, name="n", threads=3, command=program(ECHO)) as process:
        environment = process.facts["env"]
        assert environment["OMP_NUM_THREADS"] == "3"
        assert environment["TOKENIZERS_PARALLELISM"] == "true"
        assert environment["PYTHONPATH"].endswith("elsewhere")
        assert process.facts["was"] == '{"a": 1}'
        assert process.peak_bytes == 7
        assert process.time([{"texts": ["x", "y"]}]) == [2]
        assert process.peak_bytes == 9
    process.close()
    assert process._process.returncode == 0


def test_the_memory_of_the_starting_process_is_not_counted(bundle):
    code = (
        "from nlpapp.deployment.timed_process import peak_bytes\n"
        "print(json.dumps({'load_ms': 1, 'peak_bytes': peak_bytes()}))"
    )
    ballast = np.ones(60_000_000)  # 480 MB
    with ModelProcess({}, name="n", command=program(code)) as process:
        assert 0 < process.peak_bytes < ballast.nbytes / 2


def test_an_error_of_the_model_comes_through_with_its_name(bundle, tmp_path):
    with pytest.raises(CheckpointError, match=r"mine: .* is not a bundle"):
        ModelProcess({"folder": str(tmp_path), "precision": "fp32", "threads": 1}, name="mine")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('no such thing')", "ended with code 1: no such thing"),
        ("os.kill(os.getpid(), 9)", "code -9 .*not enough memory"),
        ("sys.exit(3)", "code 3: it said nothing"),
    ],
)
def test_a_process_that_dies_while_loading_is_named(code, message):
    with pytest.raises(CheckpointError, match=f"process of mine {message}|mine .*{message}"):
        ModelProcess({}, name="mine", command=program(code))


def test_a_process_that_dies_while_answering_is_named():
    code = "print('{\"load_ms\": 1}', flush=True); sys.stdin.readline(); sys.exit('gone')"
    process = ModelProcess({}, name="mine", command=program(code))
    for _ in range(2):  # and again, when the pipe is broken
        with pytest.raises(CheckpointError, match="gone"):
            process.time([{"texts": ["a"]}])
    process.close()
