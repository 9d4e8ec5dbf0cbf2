import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nlpapp.deployment.benchmark import (
    LOADS,
    WARM_UP,
    Subject,
    distinct_names,
    find_subjects,
    format_table,
    time_predictors,
    torch_predictor,
)
from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.runtime import Predictor
from nlpapp.errors import CheckpointError, DataError
from tests.deployment.models import build_model, load_tokenizer

TEXTS = ["a good film", "the cat sat on the mat .", "bad"]


def recorder(calls, name):
    def predict(texts, pairs=None):
        calls.append((name, tuple(texts), pairs, torch.get_num_threads()))
        return [{"label": "x", "probabilities": {"x": 1.0}} for _ in texts]

    return Subject(name=name, kind="fp32", load=lambda: predict, parameters=7, bytes=28)


def test_models_take_turns_on_the_same_texts():
    calls, threads = [], torch.get_num_threads()
    subjects = [recorder(calls, "one"), recorder(calls, "two")]
    rows = time_predictors(subjects, TEXTS, rounds=30, batch_sizes=[2], threads=1)
    assert torch.get_num_threads() == threads
    single = [call for call in calls if len(call[1]) == 1]
    assert len(single) == 2 * (30 + WARM_UP)
    for first, second in zip(single[::2], single[1::2], strict=True):
        assert {first[0], second[0]} == {"one", "two"} and first[1] == second[1]
    assert {call[0] for call in single[2 * WARM_UP :: 2]} == {"one", "two"}
    assert {call[1][0] for call in single} == set(TEXTS)
    assert len(calls) - len(single) == 2 * (3 + WARM_UP)
    assert {call[3] for call in calls} == {1}
    assert [row["model"] for row in rows] == ["one", "two"]
    for row in rows:
        assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["parameters"] == 7 and row["bytes"] == 28 and row["texts_per_second_2"] > 0


def test_every_model_is_loaded_several_times_and_pairs_are_handed_on():
    loads, calls = [], []

    def load():
        loads.append(1)
        return recorder(calls, "one").load()

    subject = Subject(name="one", kind="int8", load=load, parameters=1, bytes=4)
    time_predictors([subject], TEXTS, ["x", "y", "z"], rounds=3, batch_sizes=[])
    assert len(loads) == LOADS
    assert {(call[1][0], call[2][0]) for call in calls} == set(zip(TEXTS, "xyz", strict=True))


@pytest.mark.parametrize("before", [None, "true"])
def test_the_environment_is_left_as_it_was(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    else:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
    time_predictors([recorder([], "one")], TEXTS, rounds=3, batch_sizes=[])
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_no_texts_are_refused():
    with pytest.raises(DataError, match="no texts"):
        time_predictors([recorder([], "one")], [])


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


def find(folder, loaded=None):
    return find_subjects(
        folder, name="n", load_torch=lambda _: loaded, threads=1, max_seq_length=12
    )


def test_a_model_folder_and_its_bundle_are_found_with_their_sizes(tokenizer, tmp_path):
    model = build_model("bilstm")
    model.save_pretrained(tmp_path / "model")
    export_classifier(model, tokenizer, tmp_path / "bundle", max_seq_length=12)
    parameters = sum(weight.numel() for weight in model.parameters())
    (subject,) = find(tmp_path / "model", (model, tokenizer))
    assert (subject.kind, subject.parameters) == ("pytorch", parameters)
    assert subject.bytes == (tmp_path / "model" / "model.safetensors").stat().st_size
    subjects = find(tmp_path / "bundle")
    assert [(found.kind, found.parameters) for found in subjects] == [
        ("fp32", parameters),
        ("int8", parameters),
    ]
    assert subjects[1].bytes < subjects[0].bytes
    expected = subject.load()(TEXTS, None)
    for entry, other in zip(subjects[0].load()(TEXTS, None), expected, strict=True):
        assert entry["label"] == other["label"]


@pytest.mark.parametrize(("kind", "siamese"), [("bert", False), ("bilstm", True)])
@pytest.mark.parametrize("regression", [False, True])
def test_the_pytorch_predictor_gives_what_the_bundle_does(
    kind, siamese, regression, tokenizer, tmp_path
):
    options = {"siamese": True} if siamese else {}
    labels = {0: "score"} if regression else {0: "no", 1: "yes"}
    model = build_model(kind, labels=labels, **options)
    export_classifier(model, tokenizer, tmp_path / "b", max_seq_length=12, int8=False)
    pairs = ["a dog", "great", "the cat sat on the mat and ran"]
    found = torch_predictor(model, tokenizer, max_seq_length=12)(TEXTS, pairs)
    for entry, expected in zip(found, Predictor(tmp_path / "b").predict(TEXTS, pairs), strict=True):
        if regression:
            assert entry["score"] == pytest.approx(expected["score"], abs=1e-4)
        else:
            assert entry["label"] == expected["label"]
            values = [list(row["probabilities"].values()) for row in (entry, expected)]
            np.testing.assert_allclose(*values, atol=1e-4)


def test_what_is_neither_model_nor_bundle_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="neither a model folder .* nor a bundle"):
            find(folder)


def test_names_tell_folders_apart():
    folders = [Path("runs/sst2/model"), Path("runs/mrpc/bundle"), Path("model")]
    assert distinct_names(folders) == ["sst2", "mrpc", "model"]
    same = [Path("runs/a/model"), Path("runs/a/bundle")]
    assert distinct_names(same) == ["runs/a/model", "runs/a/bundle"]


def test_table_columns_are_aligned():
    rows = [{"model": "a", "bytes": 1234567, "p50_ms": 0.5}, {"model": "bcd", "accuracy": 0.25}]
    lines = format_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["model", "bytes", "p50_ms", "accuracy"]
    assert lines[1].split() == ["a", "1,234,567", "0.500", "-"]
    assert lines[2].split() == ["bcd", "-", "-", "0.250"]
