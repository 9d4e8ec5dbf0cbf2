import asyncio
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from nlpapp.deployment import serve
from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.runtime import Predictor
from nlpapp.deployment.serve import build_app, has_gone
from nlpapp.deployment.serve_limits import LimitsConfig
from nlpapp.deployment.serve_models import open_models
from nlpapp.deployment.serve_process import BackgroundServer, ServerSettings
from nlpapp.text.student_vocabulary import word_tokenizer
from tests.deployment.models import build_model, load_tokenizer
from tests.deployment.served import ask, write_encoder_bundle

LIMITS = LimitsConfig(max_rows=64, max_characters=2000, max_body_bytes=200_000)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name in ("bert", "bilstm"):
        export_classifier(build_model(name), tokenizer, folder / name, max_seq_length=16, batches=2)
    np.save(folder / "table.npy", write_encoder_bundle(folder / "vectors", tokenizer))
    words = word_tokenizer(["a good film", "bad cat"], min_frequency=1, max_words=9, lowercase=True)
    model = build_model("text_cnn")
    export_classifier(model, words, folder / "words", max_seq_length=9, batches=2)
    return folder


@pytest.fixture(scope="module")
def url(folders):
    names = ("bert", "bilstm", "vectors", "words")
    settings = ServerSettings(
        models=[str(folders / name) for name in names], limits=LIMITS, drain_seconds=0.0
    )
    with BackgroundServer(settings) as server:
        yield server.url


def test_predictions_are_those_of_the_runtime(url, folders):
    texts, pairs = ["good film", "the cat sat on the mat"], ["bad", "a dog"]
    for name in ("bert", "bilstm"):
        body = {"texts": texts, "pairs": pairs, "model": name}
        status, _, found = ask(url, "/predict", body)
        assert status == 200
        expected = Predictor(folders / name).predict(texts, pairs)
        assert [entry["label"] for entry in found["predictions"]] == [e["label"] for e in expected]
        for entry, witness in zip(found["predictions"], expected, strict=True):
            assert entry["probabilities"] == pytest.approx(witness["probabilities"], abs=1e-6)
    assert ask(url, "/predict", {"texts": texts})[2]["model"] == "bert"


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_vectors_are_those_of_a_formula(url, folders, tokenizer, pooling, layer):
    body = {"texts": ["good film", "cat"], "pooling": pooling, "layer": layer}
    status, _, found = ask(url, "/embed", body)
    assert (status, found["pooling"], found["layer"]) == (200, pooling, layer)
    table = np.load(folders / "table.npy") * (1 if layer == 0 else 2)
    for text, vector in zip(body["texts"], found["embeddings"], strict=True):
        states = table[tokenizer(text)["input_ids"]]
        expected = {"mean": states.mean(0), "cls": states[0], "max": states.max(0)}[pooling]
        np.testing.assert_allclose(vector, expected, rtol=1e-5)


def test_words_matter_by_what_their_absence_changes(url, folders):
    text = "the good film was awful"
    status, _, found = ask(url, "/explain", {"text": text, "model": "bilstm"})
    assert status == 200
    words = text.split()
    assert [entry["word"] for entry in found["words"]] == words
    predictor = Predictor(folders / "bilstm")
    (whole,) = predictor.predict([text])
    label = whole["label"]
    for index, entry in enumerate(found["words"]):
        # Two spaces or one are the same to the tokenizer.
        (part,) = predictor.predict([" ".join(words[:index] + words[index + 1 :])])
        expected = whole["probabilities"][label] - part["probabilities"][label]
        assert entry["weight"] == pytest.approx(expected, abs=1e-6)
        assert text[entry["start"] : entry["end"]] == entry["word"]


def test_state_models_and_figures(url):
    assert ask(url, "/health")[:1] == (200,)
    assert ask(url, "/ready")[2] == {"status": "ready"}
    names = [model["name"] for model in ask(url, "/models")[2]["models"]]
    assert names == ["bert", "bilstm", "vectors", "words"]
    assert 'nlpapp_requests_total{path="/health",status="200"}' in ask(url, "/metrics")[2]
    assert set(ask(url, "/openapi.json")[2]["paths"]) >= {"/predict", "/embed", "/explain"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/predict", b"not json", 422),
        ("/predict", b'{"texts": ["\xff\xfe"]}', 422),
        ("/predict", {"texts": []}, 422),
        ("/predict", {"texts": [1, 2]}, 422),
        ("/predict", {"texts": {"a": "b"}}, 422),
        ("/predict", {"texts": [" "]}, 422),
        ("/predict", {"texts": ["a"] * 10_000}, 413),
        ("/predict", {"texts": ["a" * 2**20]}, 413),
        ("/predict", {"texts": ["a" * 2001]}, 413),
        ("/predict", {"texts": ["a"], "model": "../../etc/passwd"}, 422),
        ("/predict", {"texts": ["a"], "model": ".."}, 422),
        ("/predict", {"texts": ["a"], "model": "passwd"}, 404),
        ("/predict", {"texts": ["a"], "model": "vectors"}, 422),
        ("/embed", {"texts": ["a"], "model": "bert"}, 422),
        ("/embed", {"texts": ["a"], "layer": 5}, 422),
        ("/embed", {"texts": ["a"], "pooling": "sum"}, 422),
        ("/explain", {"text": "a " * 64}, 413),
        ("/explain", {"text": ("ab " * 55).ljust(2000, "."), "pair": "x" * 2000}, 413),
        ("/predict/../../etc/passwd", {"texts": ["a"]}, 404),
    ],
)
def test_bad_requests_are_refused_and_the_server_goes_on(url, path, body, status):
    found, headers, content = ask(url, path, body)
    assert found == status
    assert headers["content-type"] == "application/json"
    assert content.keys() == {"error"}
    assert len(content["error"]) < 400
    assert ask(url, "/predict", {"texts": ["good"]})[0] == 200


def test_other_methods_are_refused(url):
    status, headers, _ = ask(url, "/predict", method="DELETE")
    assert (status, headers["allow"]) == (405, "POST")


def test_words_are_counted_before_texts_without_them_are_made(url, monkeypatch):
    made = []
    monkeypatch.setattr(serve, "without_word", lambda *arguments: made.append(arguments))
    status, _, found = ask(url, "/explain", {"text": "a " * 900})
    assert status == 413 and found["error"].startswith("900 words; fewer than 64")
    assert not made


@pytest.mark.parametrize("model", ["bert", "words"])
def test_odd_texts_are_answered(url, model):
    texts = ["\x00", "\U0001f600", "\u202e abc", "a" * 2000, "\ufeff.", "e\u0301", "<script>"]
    texts += ["\u200b", "\ufeff"]  # of no token
    for asked in (texts, *([text] for text in texts)):
        status, _, found = ask(url, "/predict", {"texts": asked, "model": model})
        assert (status, len(found["predictions"])) == (200, len(asked))


def test_requests_of_many_clients_are_computed_together(url):
    answers = []
    body = {"texts": ["the cat sat", "good"], "model": "bilstm"}

    def client():
        answers.extend(ask(url, "/predict", body)[2]["predictions"] for _ in range(5))

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 80
    for answer in answers:
        for entry, first in zip(answer, answers[0], strict=True):
            assert entry["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)
    figures = dict(line.rsplit(" ", 1) for line in ask(url, "/metrics")[2].splitlines())
    batches = float(figures['nlpapp_batch_rows_count{model="bilstm"}'])
    assert batches < float(figures['nlpapp_rows_total{model="bilstm"}'])


def test_endpoints_of_texts_answer_the_same_through_fastapi(folders):
    guard = build_app(open_models([folders / "bilstm"], threads=1))
    bodies = ({"texts": ["good film"]}, {"texts": []}, {"texts": ["a"], "model": "none"})

    async def answers(app):
        return [await Requests(app).post("/predict", body) for body in bodies]

    async def whole():
        await guard.app.state.service.start()
        direct = await answers(guard)
        endpoints, guard.app._endpoints = guard.app._endpoints, {}
        through = await answers(guard)
        guard.app._endpoints = endpoints
        await guard.app.state.service.stop()
        return direct, through

    direct, through = asyncio.run(whole())
    assert [answer[0] for answer in direct] == [200, 422, 404]
    for one, other in zip(direct, through, strict=True):
        assert (one[0], one[2]) == (other[0], other[2])
        assert one[1].keys() == other[1].keys()


@pytest.mark.parametrize(
    ("message", "gone"),
    [(None, False), ({"type": "http.disconnect"}, True), ({"type": "http.request"}, False)],
)
def test_whether_a_client_has_gone_is_known_without_waiting(message, gone):
    async def receive():
        if message is None:
            await asyncio.Event().wait()
        return message

    async def whole():
        return has_gone(receive)

    assert asyncio.run(whole()) is gone


class Requests:
    """Asks an application without a network."""

    def __init__(self, guard):
        self.guard = guard

    async def post(self, path, body, *, leave_after=None):
        """Return (status, headers, JSON); with ``leave_after`` the client goes away then."""
        sent = []
        content = json.dumps(body).encode()
        waiting = [{"type": "http.request", "body": content}]
        left = asyncio.Event()
        if leave_after is not None:
            asyncio.get_running_loop().call_later(leave_after, left.set)

        async def receive():
            if waiting:
                return waiting.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST" if body else "GET", "path": path}
        scope |= {"headers": [], "query_string": b"", "http_version": "1.1", "scheme": "http"}
        await self.guard(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, json.loads(sent[1]["body"])


def with_held_model(folders, scenario, **limits):
    """Run ``scenario(requests, batches, go_on)`` with a model that computes once go_on is set."""
    models = open_models([folders / "bilstm"], threads=1)
    read, compute = models["bilstm"].read, models["bilstm"].compute
    batches, go_on = [], threading.Event()
    go_on.set()

    def read_with_text(key, rows):
        found = zip(rows, read(key, rows), strict=True)
        return [((text, reading), length) for (text, _), (reading, length) in found]

    def held(key, readings):
        batches.append([text for text, _ in readings])
        assert go_on.wait(20)
        return compute(key, [reading for _, reading in readings])

    models["bilstm"].read, models["bilstm"].compute = read_with_text, held
    guard = build_app(models, limits=LimitsConfig(**limits))
    service = guard.app.state.service

    async def whole():
        await service.start()
        batches.clear()
        go_on.clear()
        try:
            await scenario(Requests(guard), batches, go_on)
        finally:
            go_on.set()
            await service.stop()

    asyncio.run(asyncio.wait_for(whole(), 30))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def test_a_full_queue_answers_429_and_recovers(folders):
    async def scenario(requests, batches, go_on):
        tasks = [asyncio.create_task(requests.post("/predict", {"texts": ["first"]}))]
        await until(lambda: batches)
        for text in ("second", "third", "fourth"):
            tasks.append(asyncio.create_task(requests.post("/predict", {"texts": [text]})))
            await asyncio.sleep(0)
        await until(lambda: tasks[3].done())
        status, headers, body = tasks[3].result()
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert "2 rows wait already" in body["error"]
        go_on.set()
        assert [task.result()[0] for task in tasks[:3] if await task] == [200] * 3
        assert (await requests.post("/predict", {"texts": ["later"]}))[0] == 200

    with_held_model(folders, scenario, max_queue_rows=2)


def test_rows_that_wait_too_long_are_answered_503(folders):
    async def scenario(requests, batches, go_on):
        first = asyncio.create_task(requests.post("/predict", {"texts": ["first"]}))
        await until(lambda: batches)
        late = asyncio.create_task(requests.post("/predict", {"texts": ["late"]}))
        await asyncio.sleep(0.6)
        go_on.set()
        status, headers, _ = await late
        assert (status, int(headers["retry-after"]) >= 1) == (503, True)
        assert (await first)[0] == 200
        assert batches == [["first"]]

    with_held_model(folders, scenario, max_queue_seconds=0.5)


def test_a_client_that_went_away_is_not_computed_for(folders):
    async def scenario(requests, batches, go_on):
        first = asyncio.create_task(requests.post("/predict", {"texts": ["first"]}))
        await until(lambda: batches)
        gone = asyncio.create_task(requests.post("/predict", {"texts": ["gone"]}, leave_after=0.01))
        kept = asyncio.create_task(requests.post("/predict", {"texts": ["kept"]}))
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await kept)[0] == (await first)[0] == 200
        assert batches == [["first"], ["kept"]]
        assert (await gone)[0] == 499

    with_held_model(folders, scenario)


def test_a_stopping_server_is_not_ready_and_answers_what_it_took(folders):
    async def scenario(requests, batches, go_on):
        first = asyncio.create_task(requests.post("/predict", {"texts": ["first"]}))
        await until(lambda: batches)
        service = requests.guard.app.state.service
        service.draining = True
        assert (await requests.post("/ready", None))[0] == 503
        assert (await requests.post("/health", None))[0] == 200
        go_on.set()
        assert (await first)[0] == 200

    with_held_model(folders, scenario)


FUZZ = ("--checks", "not_a_server_error,status_code_conformance,response_schema_conformance")


def fuzz(url, *options, seconds):
    pytest.importorskip("schemathesis")
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    command = [sys.executable, "-c", program, *options, f"{url}/openapi.json", *FUZZ]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


def test_fuzzing_the_interface_finds_no_fault(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("run", "--max-examples", "12", "--seed", "1", "--no-color")
    result = fuzz(url, *options, "--phases", "examples,coverage,fuzzing", seconds=100)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert ask(url, "/ready")[0] == 200


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_fuzzing_for_five_minutes_finds_no_fault(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fuzz(url, "fuzz", "--max-time", "300", "--no-color", seconds=450)
    assert result.returncode == 0, result.stdout[-4000:]
    assert ask(url, "/ready")[0] == 200
