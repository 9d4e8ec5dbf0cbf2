"""What is measured, in which order, and what can be measured at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from nlpapp.deployment import benchmark
from nlpapp.deployment.benchmark import (
    TURN,
    WARM_UP,
    Loaders,
    Plan,
    Subject,
    distinct_names,
    find_subjects,
    format_table,
    measure,
    texts_of_length,
    time_in_turn,
)
from nlpapp.deployment.export import export_classifier
from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models.generation import generate_ids
from nlpapp.models.pretrained import load_classifier
from nlpapp.text.vocabulary import load_vocabulary
from tests.deployment.models import build_model, load_tokenizer

TEXTS = ["a good film", "the cat sat on the mat .", "bad"]


class Recorder:
    """A process that does nothing but write down what it is asked."""

    start_ms, peak_bytes = 50.0, 3_000_000

    def __init__(self, name, calls, *, threads=1, seconds=0.001):
        self.name, self.calls, self.threads, self.seconds = name, calls, threads, seconds
        self.facts = {"load_ms": 20.0, "parameters": 11}
        calls.append(("load", name, threads))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.calls.append(("close", self.name, self.threads))

    def time(self, batches):
        self.calls.append((self.name, batches))
        return [self.seconds * (number + 1) for number in range(len(batches))]

    def predict(self, texts, pairs):
        return None if self.name == "encoder" else [{"label": text} for text in texts]


def recorders(calls, *names, parameters=7):
    class Recorded(Subject):
        def start(self, threads):
            return Recorder(self.name, calls, threads=threads)

    options = {"kind": "fp32", "parameters": parameters, "bytes": 28, "specification": {}}
    return [Recorded(name=name, **options) for name in names]


def run_turns(**options):
    calls = []
    processes = [Recorder(name, calls) for name in ("one", "two")]
    calls.clear()
    options = {"pairs": None, "size": 1, "rounds": 30, "most_seconds": 60.0} | options
    return calls, time_in_turn(processes, TEXTS, **options)


def test_models_take_turns_on_the_same_texts():
    calls, seconds = run_turns()
    turns = 30 // TURN + WARM_UP
    assert len(calls) == 2 * turns and seconds.shape == (2, 30)
    for first, second in zip(calls[::2], calls[1::2], strict=True):
        assert {first[0], second[0]} == {"one", "two"} and first[1] == second[1]
    assert {call[0] for call in calls[::2]} == {"one", "two"}  # each goes first in its turn
    batches = calls[0][1]
    assert len(batches) == TURN + 1
    assert {text for batch in batches for text in batch["texts"]} == set(TEXTS)
    # The first of each turn is not counted: one millisecond stands for it.
    assert seconds.min() == 0.002 and seconds.max() == 0.001 * (TURN + 1)


def test_large_batches_go_round_and_pairs_are_handed_on():
    calls, seconds = run_turns(pairs=["x", "y", "z"], size=4, rounds=5)
    assert seconds.shape == (2, 5)
    partners = dict(zip(TEXTS, "xyz", strict=True))
    for _, batches in calls:
        (batch,) = batches
        assert len(batch["texts"]) == 4
        assert batch["pairs"] == [partners[text] for text in batch["texts"]]
    assert len({str(batches) for _, batches in calls}) == 3  # texts move on from turn to turn


def test_time_runs_out_after_at_least_three_rounds():
    _, seconds = run_turns(size=2, rounds=50, most_seconds=0.0)
    assert seconds.shape == (2, 3)
    _, seconds = run_turns(size=1, rounds=200, most_seconds=0.0)
    assert seconds.shape == (2, TURN)


def test_figures_of_every_model_count_and_length():
    calls = []
    plan = Plan(batch_sizes=[2], rounds=3, thread_counts=[1, 2], lengths=[5], loads=2)
    judged = []

    def judge(predictions):
        judged.append(predictions)
        return 0.75

    figures = measure(recorders(calls, "one", "encoder"), TEXTS, plan=plan, judge=judge)
    assert [call for call in calls if call[0] in ("load", "close")] == [
        *[("load", "one", 1), ("close", "one", 1), ("load", "encoder", 1), ("close", "encoder", 1)],
        *[("load", "one", 1), ("load", "encoder", 1)],
        *[("close", "encoder", 1), ("close", "one", 1), ("load", "one", 2), ("load", "encoder", 2)],
        *[("close", "encoder", 2), ("close", "one", 2)],
    ]
    first, second = figures.models
    assert first["accuracy"] == 0.75 and "accuracy" not in second
    assert judged == [[{"label": text} for text in TEXTS]]
    assert (first["parameters"], first["bytes"], first["peak_mb"]) == (7, 28, 3.0)
    assert (first["start_ms"], first["load_ms"]) == (50.0, 20.0)
    assert first["texts_per_second_2"] == pytest.approx(2 / 0.001)
    # Four seconds were answered, of which the first is not counted: 2, 3, 4 ms.
    assert first["p50_ms"] == pytest.approx(3.0)
    assert first["p99_ms"] == pytest.approx(np.quantile([2, 3, 4], 0.99))
    cells = [(row["model"], row["threads"], row["words"]) for row in figures.grid]
    assert cells == [
        (name, threads, words)
        for threads in (1, 2)
        for words in (None, 5)
        for name in ("one", "encoder")
    ]
    long = [batch for call in calls if call[0] == "one" for batch in call[1]][-1]
    assert {len(text.split()) for text in long["texts"]} == {5}


def test_parameters_are_counted_by_the_process_where_no_file_has_them():
    plan = Plan(batch_sizes=[], rounds=1, loads=1)
    figures = measure(recorders([], "one", parameters=None), TEXTS, plan=plan)
    assert figures.models[0]["parameters"] == 11


def test_no_texts_are_refused():
    with pytest.raises(DataError, match="no texts"):
        measure(recorders([], "one"), [], plan=Plan())


def test_texts_of_a_length_are_made_of_the_given_words_in_order():
    assert texts_of_length(["a b", "c"], 2) == ["a b", "c a"]
    assert texts_of_length(["a b", "c"], 5) == ["a b c a b", "c a b c a"]
    with pytest.raises(ConfigError, match="0 words"):
        texts_of_length(["a"], 0)
    with pytest.raises(DataError, match="no words"):
        texts_of_length(["  "], 2)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


def find(folder):
    return find_subjects(
        folder,
        name="n",
        loaders=Loaders(load_classifier, load_tokenizer, load_vocabulary, generate_ids),
        max_seq_length=12,
    )


def test_a_model_folder_and_its_bundle_are_found_with_their_sizes(tokenizer, tmp_path):
    model = build_model("bilstm")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export_classifier(model, tokenizer, tmp_path / "bundle", max_seq_length=12)
    parameters = sum(weight.numel() for weight in model.parameters())
    (subject,) = find(tmp_path / "model")
    assert (subject.kind, subject.parameters) == ("pytorch", None)
    assert subject.bytes == sum(file.stat().st_size for file in (tmp_path / "model").iterdir())
    subjects = find(tmp_path / "bundle")
    assert [(found.kind, found.parameters) for found in subjects] == [
        ("fp32", parameters),
        ("int8", parameters),
    ]
    assert subjects[1].bytes < subjects[0].bytes
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "bundle").iterdir()}
    beside = ("manifest.json", "labels.json", "tokenizer.json", "metrics.json", "predict.py")
    assert subjects[1].bytes == sizes["model.int8.onnx"] + sum(sizes[name] for name in beside)
    plan = Plan(batch_sizes=[2], rounds=3, loads=1)
    figures = measure([subject, subjects[1]], TEXTS, plan=plan, judge=lambda found: len(found) / 4)
    for row in figures.models:
        assert row["parameters"] == parameters
        assert row["accuracy"] == 0.75
        assert row["start_ms"] > row["load_ms"] > 0
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["texts_per_second_2"] > 0
    torch_row, bundle_row = figures.models
    assert torch_row["peak_mb"] > bundle_row["peak_mb"] > 10  # only one of them holds PyTorch


def test_what_is_neither_model_nor_bundle_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=r"neither a model folder .* nor a bundle"):
            find(folder)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "classifier"),
        ("BertModel", "encoder"),
        ("BertForMaskedLM", "encoder"),
        ("TransformerXLLMHeadModel", "language_model"),
    ],
)
def test_the_task_of_a_model_folder_is_read_from_its_config(architecture, task, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    (subject,) = find(tmp_path)
    assert subject.specification["task"].replace("-", "_") == task
    assert subject.bytes == 5 + (tmp_path / "config.json").stat().st_size
    assert subject.specification["load_model"].endswith(f":load_{task}")
    assert ("generate" in subject.specification) == (task == "language_model")


def test_damaged_folders_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        find(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(CheckpointError, match=r"metrics.json cannot be read"):
        find(tmp_path)


def test_names_tell_folders_apart():
    folders = [Path("runs/sst2/model"), Path("runs/mrpc/bundle"), Path("model")]
    assert distinct_names(folders) == ["sst2", "mrpc", "model"]
    same = [Path("runs/a/model"), Path("runs/a/bundle")]
    assert distinct_names(same) == ["runs/a/model", "runs/a/bundle"]


def test_all_folders_are_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "find_subjects", lambda folder, **options: [(folder, options)])
    found = benchmark.find_all([Path("a/x"), Path("a/y")], max_seq_length=3)
    assert found == [
        (Path("a/x"), {"name": "x", "max_seq_length": 3}),
        (Path("a/y"), {"name": "y", "max_seq_length": 3}),
    ]


def test_table_columns_are_aligned():
    rows = [{"model": "a", "bytes": 1234567, "p50_ms": 0.5}, {"model": "bcd", "accuracy": 0.25}]
    lines = format_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["model", "bytes", "p50_ms", "accuracy"]
    assert lines[1].split() == ["a", "1,234,567", "0.500", "-"]
    assert lines[2].split() == ["bcd", "-", "-", "0.250"]
